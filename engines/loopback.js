// Preloaded by `node -r`: every listen() of the program is one on the loopback interface only.
const net = require('net'), listen = net.Server.prototype.listen;
net.Server.prototype.listen = function (first, ...rest) {
  if (first && typeof first === 'object' && first.port !== undefined) return listen.call(this, { ...first, host: '127.0.0.1' }, ...rest);
  if (typeof first === 'number' || /^\d+$/.test(first)) return listen.call(this, { port: Number(first), host: '127.0.0.1' }, ...rest.filter(x => typeof x === 'function'));
  return listen.call(this, first, ...rest);
};
