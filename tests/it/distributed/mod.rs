//! Stories that need several processes on the real engines. Stories of the contract alone are told to both set-ups, in their own files.

mod across_processes;
mod faults;
mod kill_everything;
mod kinesis;
mod refusals;
mod writing;
mod zombies;
