//! The lake, tried from outside.

mod errors;
mod faults;
mod lake;
mod log;
mod reading;
mod support;
