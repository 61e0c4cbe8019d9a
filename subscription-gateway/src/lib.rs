#![doc = include_str!("../README.md")]

mod answer;
mod body;
mod identity;
mod keys;
mod layer;
mod route;
mod service;
mod usage;
mod velocity;

pub use body::GatewayBody;
pub use identity::{Identify, Identity, Principal};
pub use keys::ApiKeys;
pub use layer::{GatewayBuilder, GatewayLayer, PeerAddress};
pub use route::template_of;
pub use service::GatewayService;
