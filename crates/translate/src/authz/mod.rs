//! (filled in next)
use protos::envoy::config::listener::v3 as listener;
use protos::envoy::extensions::filters::network::http_connection_manager::v3 as hcm;
use protos::envoy::r#type::matcher::v3 as matcher;
pub(crate) fn custom_http(_i: &crate::Inputs) -> Vec<hcm::HttpFilter> { Vec::new() }
pub(crate) fn http(_i: &crate::Inputs) -> Vec<hcm::HttpFilter> { Vec::new() }
pub(crate) fn custom_tcp(_i: &crate::Inputs) -> Vec<listener::Filter> { Vec::new() }
pub(crate) fn tcp(_i: &crate::Inputs) -> Vec<listener::Filter> { Vec::new() }
pub(crate) fn nested_names(_t: &str) -> Option<Vec<String>> { None }
pub(crate) fn claims_matcher(_path: &[String], _m: matcher::StringMatcher) -> matcher::MetadataMatcher { Default::default() }
