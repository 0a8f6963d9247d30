//! How are retry, hedge and internal redirect policies compiled?

use std::time::Duration;

use protos::envoy::config::route::v3 as p;
use protos::envoy::extensions::retry as ext;

use super::any::{Typed, no_config};
use super::common::{self, opt_duration};
use super::{each, matcher, reject};
use crate::common::Backoff;
use crate::error::{At, Result, invalid, missing, unsupported};
use crate::matcher::HeaderName;
use crate::route::*;

/// Envoy's default base interval (`upstream.base_retry_backoff_ms`).
const BASE_INTERVAL: Duration = Duration::from_millis(25);

/// `RetryPolicy`
pub(super) fn policy(r: &p::RetryPolicy) -> Result<RetryPolicy> {
    use p::retry_policy::{retry_host_predicate, retry_priority};
    reject!(r; retry_options_predicates, refresh_cluster_on_retry);
    let host_predicates = each("retry_host_predicate", &r.retry_host_predicate, |h| {
        let Some(retry_host_predicate::ConfigType::TypedConfig(any)) = &h.config_type else {
            return Err(no_config(&h.name));
        };
        let typed = Typed::open(&h.name, any)?;
        match typed.message.as_str() {
            "envoy.extensions.retry.host.previous_hosts.v3.PreviousHostsPredicate" => Ok(HostPredicate::PreviousHosts),
            "envoy.extensions.retry.host.omit_canary_hosts.v3.OmitCanaryHostsPredicate" => {
                Ok(HostPredicate::OmitCanary)
            }
            "envoy.extensions.retry.host.omit_host_metadata.v3.OmitHostMetadataConfig" => {
                let c: ext::host::omit_host_metadata::v3::OmitHostMetadataConfig = typed.decode()?;
                Ok(HostPredicate::OmitMetadata(common::metadata_match(&c.metadata_match).unwrap_or_else(|| [].into())))
            }
            _ => Err(typed.unknown()),
        }
    })?;
    let previous_priorities = match &r.retry_priority {
        None => None,
        Some(rp) => {
            let Some(retry_priority::ConfigType::TypedConfig(any)) = &rp.config_type else {
                return Err(no_config(&rp.name).at("retry_priority"));
            };
            let c: ext::priority::previous_priorities::v3::PreviousPrioritiesConfig =
                super::any::expect(&rp.name, any).at("retry_priority")?;
            let n = u32::try_from(c.update_frequency).ok().filter(|n| *n > 0);
            Some(n.ok_or_else(|| invalid("value must be greater than 0").at("update_frequency").at("retry_priority"))?)
        }
    };
    let backoff = match &r.retry_back_off {
        None => Backoff { base: BASE_INTERVAL, max: BASE_INTERVAL * 10 },
        Some(b) => {
            let mut b = common::backoff(&b.base_interval, &b.max_interval).at("retry_back_off")?;
            // Envoy works in milliseconds and rounds sub-millisecond intervals up to one.
            b.base = b.base.max(Duration::from_millis(1));
            b.max = b.max.max(b.base);
            b
        }
    };
    let rate_limited = r.rate_limited_retry_back_off.as_ref().map(rate_limited).transpose();
    Ok(RetryPolicy {
        retry_on: RetryOn::parse(&r.retry_on),
        num_retries: r.num_retries.unwrap_or(1),
        per_try_timeout: opt_duration("per_try_timeout", &r.per_try_timeout)?.filter(|d| !d.is_zero()),
        per_try_idle_timeout: opt_duration("per_try_idle_timeout", &r.per_try_idle_timeout)?.filter(|d| !d.is_zero()),
        retriable_status_codes: r.retriable_status_codes.iter().filter_map(|c| u16::try_from(*c).ok()).collect(),
        retriable_headers: matcher::headers("retriable_headers", &r.retriable_headers)?,
        retriable_request_headers: matcher::headers("retriable_request_headers", &r.retriable_request_headers)?,
        host_predicates,
        host_selection_max_attempts: match r.host_selection_retry_max_attempts {
            0 => 1,
            n => u32::try_from(n)
                .map_err(|_| invalid("value is out of range").at("host_selection_retry_max_attempts"))?,
        },
        previous_priorities,
        backoff,
        rate_limited: rate_limited.at("rate_limited_retry_back_off")?.map(Box::new),
    })
}

fn rate_limited(r: &p::retry_policy::RateLimitedRetryBackOff) -> Result<RateLimitedBackoff> {
    if r.reset_headers.is_empty() {
        return Err(missing("reset_headers"));
    }
    Ok(RateLimitedBackoff {
        reset_headers: each("reset_headers", &r.reset_headers, |h| {
            Ok(ResetHeader {
                name: HeaderName::new(&common::required("name", &h.name)?),
                unix_timestamp: h.format == 1,
            })
        })?,
        max_interval: opt_duration("max_interval", &r.max_interval)?.unwrap_or(Duration::from_secs(300)),
    })
}

/// `HedgePolicy`
pub(super) fn hedge(h: &p::HedgePolicy) -> Result<HedgePolicy> {
    let initial_requests = h.initial_requests.unwrap_or(1);
    if initial_requests != 1 {
        return Err(unsupported("more than one initial request").at("initial_requests"));
    }
    if h.additional_request_chance.as_ref().is_some_and(|c| c.numerator > 0) {
        return Err(unsupported("this field").at("additional_request_chance"));
    }
    Ok(HedgePolicy { hedge_on_per_try_timeout: h.hedge_on_per_try_timeout, initial_requests })
}

/// `InternalRedirectPolicy`
pub(super) fn internal_redirect(r: &p::InternalRedirectPolicy) -> Result<InternalRedirect> {
    reject!(r; predicates);
    let known = [301, 302, 303, 307, 308];
    let mut codes: Vec<u16> =
        r.redirect_response_codes.iter().filter_map(|c| u16::try_from(*c).ok()).filter(|c| known.contains(c)).collect();
    if r.redirect_response_codes.is_empty() {
        codes.push(302);
    }
    Ok(InternalRedirect {
        max_internal_redirects: r.max_internal_redirects.unwrap_or(1),
        response_codes: codes.into(),
        allow_cross_scheme_redirect: r.allow_cross_scheme_redirect,
        response_headers_to_copy: r.response_headers_to_copy.iter().map(|n| HeaderName::new(n)).collect(),
    })
}
