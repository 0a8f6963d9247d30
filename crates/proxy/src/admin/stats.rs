//! `/stats` in all its formats, rendered by `telemetry` while it is sent.

use std::rc::Rc;
use std::sync::Arc;

use telemetry::stats::{self, HistogramMode, Query as Wanted, TypeFilter};

use super::query::Query;
use super::reply::Reply;
use crate::server::Server;

const TEXT: &str = "text/plain; charset=UTF-8";

fn wanted(query: &Query) -> Result<Wanted, Reply> {
    Ok(Wanted {
        used_only: query.has("usedonly"),
        filter: query.regex("filter").map_err(|e| Reply::text(400, e))?.map(Arc::new),
        kind: match query.get("type") {
            None | Some("All") => TypeFilter::All,
            Some("Counters") => TypeFilter::Counters,
            Some("Gauges") => TypeFilter::Gauges,
            Some("Histograms") => TypeFilter::Histograms,
            Some("TextReadouts") => TypeFilter::TextReadouts,
            Some(_) => return Err(Reply::text(400, "invalid &type= param")),
        },
        histograms: match query.get("histogram_buckets") {
            None | Some("none") => HistogramMode::Unset,
            Some("cumulative") => HistogramMode::Cumulative,
            Some("disjoint") => HistogramMode::Disjoint,
            Some("detailed") => HistogramMode::Detailed,
            Some("summary") => HistogramMode::Summary,
            Some(_) => {
                return Err(Reply::text(
                    400,
                    "usage: /stats?histogram_buckets=(cumulative|disjoint|detailed|summary|prometheusnative)\n",
                ));
            }
        },
        text_readouts: query.has("text_readouts"),
    })
}

pub fn reply(server: &Rc<Server>, query: &Query) -> Reply {
    let wanted = match wanted(query) {
        Ok(wanted) => wanted,
        Err(reply) => return reply,
    };
    server.refresh();
    let store = server.store.clone();
    match query.get("format") {
        None | Some("text") => Reply::stream(TEXT, move |sink| {
            stats::text(&store, &wanted, &mut *sink);
            // Envoy ends a page that has histograms with an empty line.
            sink("");
        }),
        Some("json") => Reply::stream("application/json", move |sink| stats::json(&store, &wanted, sink)),
        Some("prometheus") => Reply::stream(TEXT, move |sink| stats::prometheus(&store, &wanted, sink)),
        Some("html" | "active-html") => Reply::stream("text/html; charset=UTF-8", move |sink| {
            sink("<!DOCTYPE html>\n<html lang='en'><head><title>Envoy Admin</title></head><body><pre>\n");
            stats::text(&store, &wanted, &mut |line: &str| sink(&line.replace('&', "&amp;").replace('<', "&lt;")));
            sink("</pre></body></html>\n");
        }),
        Some(_) => Reply::text(400, "usage: /stats?format=(html|active-html|json|prometheus|text)\n\n"),
    }
}

pub fn prometheus(server: &Rc<Server>, query: &Query) -> Reply {
    match wanted(query) {
        Ok(wanted) => {
            server.refresh();
            let store = server.store.clone();
            Reply::stream(TEXT, move |sink| stats::prometheus(&store, &wanted, sink))
        }
        Err(reply) => reply,
    }
}
