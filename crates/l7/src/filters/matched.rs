//! Which filter does this request's own content choose? `ExtensionWithMatcher` and `composite`: decided once per request, at its
//! head, and remembered for what follows.

use std::sync::Arc;

use proxy_config::common::Fraction;
use proxy_config::filters::http as config;
use proxy_core::match_tree;

use super::{Filter, FilterCx, FilterState};
use crate::exchange::Exchange;

/// A place whose filter the request chooses.
pub struct Matched {
    config: Arc<config::Matched>,
    /// By action; `None`: nothing runs.
    actions: Box<[Option<(Arc<Filter>, Fraction)>]>,
    filter: Option<Arc<Filter>>,
}

/// What one request chose.
pub struct Chosen {
    index: usize,
    filter: Option<Arc<Filter>>,
}

impl Matched {
    /// Compiles the place; `make` compiles a filter for it.
    pub fn new(
        config: Arc<config::Matched>,
        make: impl Fn(&config::HttpFilterKind) -> Result<Filter, String>,
    ) -> Result<Self, String> {
        let actions = config.actions.iter().map(|action| {
            Ok(match action {
                config::MatchAction::Skip => None,
                config::MatchAction::Execute(kind, share) => Some((Arc::new(make(kind)?), *share)),
            })
        });
        let actions = actions.collect::<Result<_, String>>()?;
        let filter = config.filter.as_ref().map(|kind| make(kind).map(Arc::new)).transpose()?;
        Ok(Matched { actions, filter, config })
    }

    /// The filters that may run here.
    pub fn all(&self) -> impl Iterator<Item = &Arc<Filter>> {
        self.filter.iter().chain(self.actions.iter().flatten().map(|(filter, _)| filter))
    }

    /// Decides for a request.
    pub fn choose(&self, cx: &FilterCx<'_>, ex: &mut Exchange) -> Option<Arc<Filter>> {
        let number = self.config.tree.as_ref().and_then(|tree| match_tree::walk(tree, &ex.request));
        let filter = match number {
            None => self.filter.clone(),
            Some(number) => match &self.actions[number] {
                Some((filter, share)) if share.hit(cx.conn.worker.random()) => Some(filter.clone()),
                _ => None,
            },
        };
        ex.filters.push(FilterState::Matched(Chosen { index: cx.index(), filter: filter.clone() }));
        filter
    }

    /// What was decided. A request that was answered before it came here has decided nothing: the filter sees the response.
    pub fn chosen(&self, index: usize, ex: &Exchange) -> Option<Arc<Filter>> {
        let chosen = ex.filters.iter().find_map(|state| match state {
            FilterState::Matched(chosen) if chosen.index == index => Some(&chosen.filter),
            _ => None,
        });
        chosen.unwrap_or(&self.filter).clone()
    }
}
