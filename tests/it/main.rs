//! Stories told to the real binary, over its real sockets: one file per story.

mod harness;

mod access_log;
mod across;
mod answers;
mod answers_cloudtrail;
mod bounds;
mod cleanup;
mod cloudtrail;
mod commands;
mod contract;
mod crash;
mod credentials;
mod damage;
mod deletion;
mod differential;
mod disk;
mod distributed;
mod duplicates;
mod export_jobs;
mod fuzz;
mod idp;
mod intake;
mod isolation;
mod letters;
mod limits;
mod masking;
mod matrix;
mod migrate;
mod paging;
mod proxy;
mod stream;
mod terminal;
mod tls;
