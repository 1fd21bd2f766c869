mod fetch;
mod issuers;
mod keys;
mod local;
