//! Which packets reach the proxy? Called by `proa agent istio-iptables`, by the local mesh and by tests.
//!
//! Three steps, each its own file: [`Config`] says what is wanted (istio-iptables' flags), [`iptables`] and
//! [`nftables`] render it to text without touching the machine, [`apply`] hands that text to the kernel.
//! [`netlink`] is the little of rtnetlink that routes and the local mesh need, [`nft`] compiles the
//! rendered nftables script to netlink messages so that no package has to be installed for it.
//! Deliberately absent: reading Pods or annotations (that is `inject`), and anything asynchronous.

pub mod apply;
mod args;
mod config;
pub mod iptables;
pub mod netlink;
pub mod nft;
pub mod nftables;
mod probe;
mod ranges;

pub use args::{Args, Invocation, main};
pub use config::{Config, InvalidConfig, Mode, OwnerGroups};
pub use ranges::{Ranges, split_list};
