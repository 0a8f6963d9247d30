//! `/logging`: the level of each logger, and its change.

use std::rc::Rc;

use telemetry::log::{self, Level, SCOPES};

use super::query::Query;
use super::reply::Reply;
use crate::server::Server;

const USAGE: &str = "usage: /logging?<name>=<level> (change single level)
usage: /logging?paths=name1:level1,name2:level2,... (change multiple levels)
usage: /logging?level=<level> (change all levels)
usage: /logging?group=<group_name>:<level> (change group of loggers)
levels: trace debug info warning error critical off
";

fn list() -> Reply {
    let mut out = String::from("active loggers:\n");
    for scope in SCOPES {
        out.push_str(&format!("  {}: {}\n", scope.name(), scope.level().as_str()));
    }
    out.push('\n');
    Reply::text(200, out)
}

fn change(query: &Query) -> Result<(), &'static str> {
    let (name, value) = match query.iter().len() {
        0 => return Ok(()),
        1 => query.iter().next().unwrap_or_default(),
        _ => return Err("invalid number of parameters"),
    };
    if value.is_empty() {
        return Ok(());
    }
    let level = |word: &str| Level::parse(word).ok_or("unknown logger level");
    match name {
        "level" => log::set_all(level(value)?),
        "paths" | "group" => {
            let mut changes = Vec::new();
            for part in value.split(',') {
                let (name, word) = part.split_once(':').ok_or("unknown logger name")?;
                changes.push((log::find(name).ok_or("unknown logger name")?, level(word)?));
            }
            changes.into_iter().for_each(|(scope, level)| scope.set_level(level));
        }
        name => {
            let level = level(value)?;
            log::find(name).ok_or("unknown logger name")?.set_level(level);
        }
    }
    Ok(())
}

pub fn reply(_: &Rc<Server>, query: &Query) -> Reply {
    match change(query) {
        Ok(()) => list(),
        Err(reason) => Reply::text(400, format!("error: {reason}\n\n{USAGE}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn changes_as_envoy_takes_them() {
        let check = |query: &str, expect: Result<(), &str>| assert_eq!(change(&Query::parse(query)), expect, "{query}");
        check("paths=http2:debug,pool:trace", Ok(()));
        assert_eq!((log::scope::http2.level(), log::scope::pool.level()), (Level::Debug, Level::Trace));
        check("rbac=debug", Ok(()));
        check("", Ok(()));
        check("level=foo", Err("unknown logger level"));
        check("foo=debug", Err("unknown logger name"));
        check("paths=http:debug,conn:info", Err("unknown logger name"));
        check("paths=http:debug,router:foo", Err("unknown logger level"));
        check("http=debug&rbac=info", Err("invalid number of parameters"));
        assert_eq!(log::scope::http.level(), Level::Info);
    }
}
