//! Which filter stands here? One that extension config discovery tells, its default until then.

use std::sync::Arc;

use arc_swap::ArcSwapOption;
use proxy_config::Name;
use telemetry::access_log::ResponseFlags;

use super::{Filter, Step};
use crate::reply::LocalReply;

/// A place for a filter that is told later.
pub struct Discovered {
    /// Types that may stand here.
    pub type_urls: Box<[Name]>,
    /// What stands here while nothing is told.
    pub default: Option<Arc<Filter>>,
    /// What stands here now; requests that were under way see the change.
    pub current: ArcSwapOption<Filter>,
}

impl Discovered {
    /// What stands here.
    pub fn now(&self) -> Option<Arc<Filter>> {
        self.current.load_full()
    }

    /// The answer while nothing does.
    pub fn missing() -> Step {
        let flags = ResponseFlags::NO_FILTER_CONFIG_FOUND;
        Step::reply(LocalReply { status: 500, flags, ..Default::default() })
    }
}
