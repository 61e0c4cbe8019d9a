//! What tests of the platform, and of plug-ins for it, need.

pub mod conformance;
pub mod faults;
pub mod reference;
pub mod traffic;
