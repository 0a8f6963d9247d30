//! (filled in next)
use protos::envoy::extensions::filters::network::http_connection_manager::v3 as hcm;
pub(crate) fn filter(_inputs: &crate::Inputs) -> Option<hcm::HttpFilter> { None }
