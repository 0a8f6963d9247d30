//! `/listeners`: which listeners serve, and where.

use std::rc::Rc;

use protos::envoy::admin::v3 as admin;
use proxy_config::common::Address;
use proxy_config::listener::ListenAddress;

use super::clusters::address;
use super::json;
use super::query::Query;
use super::reply::Reply;
use crate::server::Server;

/// Main address first, then additional ones; real ports where bound.
fn addresses(listener: &l4::Listener) -> Vec<Address> {
    let bound: Vec<Address> = listener.local_addresses().into_iter().map(Address::Socket).collect();
    if !bound.is_empty() {
        return bound;
    }
    match &listener.config.address {
        ListenAddress::Bound(a) => vec![a.clone()],
        ListenAddress::Internal => {
            vec![Address::Internal { listener: listener.config.name.clone(), endpoint_id: "".into() }]
        }
    }
}

pub fn reply(server: &Rc<Server>, query: &Query) -> Reply {
    let config = server.config.borrow();
    let all = config.listeners.active().map(|(name, l)| (name, addresses(l)));
    if query.get("format") != Some("json") {
        let lines = all.map(|(name, addresses)| {
            let list: Vec<String> = addresses.iter().map(Address::to_string).collect();
            format!("{name}::{}\n", list.join(","))
        });
        return Reply::text(200, lines.collect::<String>());
    }
    let listener_statuses = all
        .map(|(name, addresses)| {
            let mut addresses = addresses.iter().map(address);
            admin::ListenerStatus {
                name: name.to_owned(),
                local_address: addresses.next(),
                additional_local_addresses: addresses.collect(),
            }
        })
        .collect();
    Reply::json(json::pretty(&json::of(&admin::Listeners { listener_statuses })))
}
