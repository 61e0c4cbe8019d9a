//! The lake, tried from outside.

#[cfg(feature = "failpoints")]
mod crash;
mod errors;
mod faults;
mod lake;
mod log;
mod maintain;
mod model;
mod reading;
mod support;
