//! The `pipeline` command and what it is made of: files as a source, access logs as events, and what came out, for people
//! and for programs to read.

pub mod access_log;
pub mod cells;
pub mod cli;
pub mod config;
pub mod demo;
pub mod emit;
pub mod exit;
pub mod files;
pub mod gateway;
pub mod generate;
pub mod kafka;
pub mod lake;
pub mod lines;
pub mod maintain;
pub mod progress;
pub mod run;
pub mod show;
pub mod summary;
pub mod tables;
pub mod text;
pub mod usage;
pub mod verify;
