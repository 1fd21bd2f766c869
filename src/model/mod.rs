//! Plain data that travels: no I/O, no actors, no HTTP. Everything may use it; it uses nothing of the rest.

pub mod batch;
pub mod calendar;
pub mod conditions;
pub mod credit;
pub mod entry;
pub mod feed;
pub mod filter;
pub mod json;
pub mod leaves;
pub mod mask;
pub mod names;
pub mod pack;
pub mod parse;
pub mod render;
pub mod tenant;
pub mod ticket;
pub mod time;
pub mod words;
