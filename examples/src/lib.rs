//! The `pipeline` command and what it is made of: files as a source, access logs as events, and what came out for people to read.

pub mod access_log;
pub mod config;
pub mod files;
pub mod lines;
