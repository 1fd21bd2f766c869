// node sqs-front.js PORT UPSTREAM_PORT DIR: stands before ElasticMQ on loopback and mends one header; all else is piped through untouched.
// ElasticMQ sends `x-amzn-query-error: com.amazonaws.sqs#QueueDoesNotExist`, AWS sends `AWS.SimpleQueueService.NonExistentQueue;Sender`, and
// the Rust SDK types its errors by that code.
const http = require('http'), [port, upstream] = process.argv.slice(2, 4).map(Number);
const agent = new http.Agent({ keepAlive: true, timeout: 30000 });
const PREFIXED = ['BatchEntryIdsNotDistinct', 'BatchRequestTooLong', 'EmptyBatchRequest', 'InvalidBatchEntryId', 'MessageNotInflight', 'PurgeQueueInProgress',
  'QueueDeletedRecently', 'QueueDoesNotExist', 'TooManyEntriesInBatchRequest', 'UnsupportedOperation'];
function code(name) {
  if (name === 'QueueNameExists') return 'QueueAlreadyExists';
  if (!PREFIXED.includes(name)) return name;
  return 'AWS.SimpleQueueService.' + (name === 'QueueDoesNotExist' ? 'NonExistentQueue' : name);
}
http.createServer({ keepAliveTimeout: 0, requestTimeout: 0 }, (request, answer) => {
  const forward = http.request({ host: '127.0.0.1', port: upstream, method: request.method, path: request.url, headers: request.headers, agent }, got => {
    const error = got.headers['x-amzn-query-error'];
    if (error) got.headers['x-amzn-query-error'] = code(error.split('#').pop()) + (got.statusCode < 500 ? ';Sender' : ';Receiver');
    answer.writeHead(got.statusCode, got.headers);
    got.pipe(answer);
  });
  forward.on('error', () => answer.headersSent ? answer.destroy() : answer.writeHead(503).end());
  answer.on('close', () => answer.writableFinished || forward.destroy());
  request.pipe(forward);
}).listen(port, '127.0.0.1');
