//! How does Envoy's protobuf become the runtime form? One parser per resource, one file per message family.
//!
//! Callers: the xDS client for dynamic resources, the bootstrap loader for static ones. Every error carries the field
//! path from the resource down. Fields that would change behaviour and are not acted on go through `reject!`.

#![allow(deprecated)] // Deprecated fields must be read too: they are what older control planes send.

mod access_log;
mod any;
mod bootstrap;
mod cel;
mod cluster;
mod common;
mod endpoint;
mod format;
mod hcm;
mod headers;
mod http_filters;
mod http_security;
mod lb;
mod listener;
mod match_tree;
mod matcher;
mod network;
mod options;
mod per_filter;
mod rate_limit;
mod rbac;
mod retry;
mod route;
mod tls;
mod tracing;
mod uri_template;

pub use self::bootstrap::bootstrap;
pub use self::cel::expr as cel_expr;
pub use self::cluster::cluster;
pub(crate) use self::common::metadata_fields;
pub use self::common::value_of_struct;
pub use self::endpoint::load_assignment;
pub use self::http_filters::http_filter_config;
pub use self::listener::listener;
pub use self::route::{on_demand_host, route_table};
pub use self::tls::secret;

/// True when a protobuf field has a value other than its default.
pub(crate) trait IsSet {
    /// See the trait.
    fn is_set(&self) -> bool;
}

impl<T> IsSet for Option<T> {
    fn is_set(&self) -> bool {
        self.is_some()
    }
}

impl<T> IsSet for Vec<T> {
    fn is_set(&self) -> bool {
        !self.is_empty()
    }
}

impl<K, V> IsSet for std::collections::BTreeMap<K, V> {
    fn is_set(&self) -> bool {
        !self.is_empty()
    }
}

impl IsSet for String {
    fn is_set(&self) -> bool {
        !self.is_empty()
    }
}

impl IsSet for bool {
    fn is_set(&self) -> bool {
        *self
    }
}

macro_rules! number_is_set {
    ($($t:ty)*) => { $(impl IsSet for $t { fn is_set(&self) -> bool { *self != <$t>::default() } })* };
}
number_is_set!(i32 i64 u32 u64 f64);

/// Refuses the message when any of these fields is set, naming the field.
macro_rules! reject {
    ($message:expr; $($field:ident),+ $(,)?) => {
        $(if $crate::parse::IsSet::is_set(&$message.$field) {
            return Err($crate::error::unsupported("this field").at(stringify!($field).trim_start_matches("r#")));
        })+
    };
}
pub(crate) use reject;

/// Parses a repeated field, indexing errors.
pub(crate) fn each<'a, T: 'a, U, C: FromIterator<U>>(
    field: &str,
    items: impl IntoIterator<Item = &'a T>,
    mut parse: impl FnMut(&'a T) -> crate::error::Result<U>,
) -> crate::error::Result<C> {
    items.into_iter().enumerate().map(|(i, item)| parse(item).map_err(|e| e.at_index(field, i))).collect()
}

#[cfg(test)]
mod tests;
