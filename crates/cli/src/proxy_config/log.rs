//! `proxy-config log`: how much does a proxy say? Levels per logger over `/logging`.

use crate::context::{Failure, Global, print};
use crate::http::fetch;

const LEVELS: [&str; 8] = ["trace", "debug", "info", "warning", "warn", "error", "critical", "off"];
const DEFAULT: &str = "warning";

pub(super) fn run(context: &Global, pod: &str, level: Option<&str>, reset: bool, port: u16) -> Result<u8, Failure> {
    let page = |query: &str| fetch(context, pod, port, "POST", &format!("/logging{query}"));
    let mut answer = page("")?;
    if reset {
        answer = page(&format!("?level={DEFAULT}"))?;
    }
    if let Some(level) = level {
        let known = String::from_utf8_lossy(&answer).into_owned();
        for change in changes(level, &known).map_err(Failure::Said)? {
            answer = page(&change)?;
        }
    }
    print(&format!("{}:\n{}", pod, String::from_utf8_lossy(&answer)))?;
    Ok(0)
}

/// The queries for `LEVEL` or `LOGGER:LEVEL,…`; `known` is what `/logging` prints.
fn changes(text: &str, known: &str) -> Result<Vec<String>, String> {
    let loggers: Vec<&str> =
        known.lines().filter_map(|line| line.trim().split_once(": ")).map(|(name, _)| name).collect();
    text.split(',')
        .map(|one| {
            let (logger, level) = one
                .split_once(':')
                .or_else(|| one.split_once('='))
                .map_or((None, one), |(logger, level)| (Some(logger), level));
            if let Some(logger) =
                logger.filter(|logger| *logger != "level" && !loggers.is_empty() && !loggers.contains(logger))
            {
                return Err(format!("unrecognized logger name: {logger}"));
            }
            if !LEVELS.contains(&level) {
                return Err(format!("unrecognized logging level: {level}"));
            }
            Ok(format!("?{}={level}", logger.unwrap_or("level")))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn levels() {
        let known = "active loggers:\n  admin: warning\n  http: warning\n";
        assert_eq!(changes("http:debug,admin:info", known), Ok(vec!["?http=debug".into(), "?admin=info".into()]));
        assert_eq!(changes("debug", known), Ok(vec!["?level=debug".into()]));
        assert_eq!(changes("xxx", known), Err("unrecognized logging level: xxx".into()));
        assert_eq!(changes("xxx:yyy", known), Err("unrecognized logger name: xxx".into()));
    }
}
