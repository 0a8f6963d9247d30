//! How was the proxy asked to run? Envoy's command line, its defaults, its errors.
//!
//! Called by [`crate::main`]; the agent builds [`Options`] itself. Flags that have no meaning here (core dumps,
//! mutex tracing) are accepted and shown in `/server_info`, as Envoy's other builds do.

use std::ffi::OsString;
use std::time::Duration;

use telemetry::log::Level;

/// `--mode`
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Mode {
    /// Validate, then serve.
    #[default]
    Serve,
    /// Validate and exit.
    Validate,
    /// Validate without touching files or the network, and exit.
    InitOnly,
}

/// `--drain-strategy`
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum DrainStrategy {
    /// The share of closed connections grows over the drain time.
    #[default]
    Gradual,
    /// All connections are asked to close at once.
    Immediate,
}

/// Everything the command line says.
#[derive(Debug, Clone)]
pub struct Options {
    /// `-c`
    pub config_path: String,
    /// `--config-yaml`
    pub config_yaml: String,
    /// `--mode`
    pub mode: Mode,
    /// `--concurrency`; at least 1.
    pub concurrency: usize,
    /// `-l`
    pub log_level: Level,
    /// `--component-log-level`
    pub component_log_level: String,
    /// `--log-format`
    pub log_format: String,
    /// `--log-path`
    pub log_path: String,
    /// `--service-node`
    pub service_node: String,
    /// `--service-cluster`
    pub service_cluster: String,
    /// `--service-zone`
    pub service_zone: String,
    /// `--restart-epoch`
    pub restart_epoch: u32,
    /// `--base-id`
    pub base_id: u32,
    /// `--use-dynamic-base-id`
    pub use_dynamic_base_id: bool,
    /// `--base-id-path`
    pub base_id_path: String,
    /// `--drain-time-s`
    pub drain_time: Duration,
    /// `--drain-strategy`
    pub drain_strategy: DrainStrategy,
    /// `--parent-shutdown-time-s`
    pub parent_shutdown_time: Duration,
    /// `--disable-hot-restart`
    pub disable_hot_restart: bool,
    /// `--skip-hot-restart-on-no-parent`
    pub skip_hot_restart_on_no_parent: bool,
    /// `--skip-hot-restart-parent-stats`
    pub skip_hot_restart_parent_stats: bool,
    /// `--socket-path`
    pub socket_path: String,
    /// `--local-address-ip-version`: v6.
    pub local_address_v6: bool,
    /// `--allow-unknown-static-fields`
    pub allow_unknown_static_fields: bool,
    /// `--reject-unknown-dynamic-fields`
    pub reject_unknown_dynamic_fields: bool,
    /// `--ignore-unknown-dynamic-fields`
    pub ignore_unknown_dynamic_fields: bool,
    /// `--admin-address-path`
    pub admin_address_path: String,
    /// `--file-flush-interval-msec`
    pub file_flush_interval: Duration,
    /// `--file-flush-min-size-kb`
    pub file_flush_min_size: u32,
    /// `--stats-tag`, as (name, value).
    pub stats_tags: Vec<(String, String)>,
    /// SIGTERM, SIGINT, SIGUSR1 and SIGHUP are this proxy's to handle; false when embedded.
    pub handle_signals: bool,
    /// Flags that change nothing here, for `/server_info`.
    pub inert: Vec<&'static str>,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            config_path: String::new(),
            config_yaml: String::new(),
            mode: Mode::Serve,
            concurrency: std::thread::available_parallelism().map_or(1, |n| n.get()),
            log_level: Level::Info,
            component_log_level: String::new(),
            log_format: telemetry::log::DEFAULT_FORMAT.into(),
            log_path: String::new(),
            service_node: String::new(),
            service_cluster: String::new(),
            service_zone: String::new(),
            restart_epoch: 0,
            base_id: 0,
            use_dynamic_base_id: false,
            base_id_path: String::new(),
            drain_time: Duration::from_secs(600),
            drain_strategy: DrainStrategy::Gradual,
            parent_shutdown_time: Duration::from_secs(900),
            disable_hot_restart: false,
            skip_hot_restart_on_no_parent: false,
            skip_hot_restart_parent_stats: false,
            socket_path: "@envoy_domain_socket".into(),
            local_address_v6: false,
            allow_unknown_static_fields: false,
            reject_unknown_dynamic_fields: false,
            ignore_unknown_dynamic_fields: false,
            admin_address_path: String::new(),
            // Envoy waits ten seconds; a reader of the log would rather not.
            file_flush_interval: Duration::from_secs(1),
            file_flush_min_size: 64,
            stats_tags: Vec::new(),
            handle_signals: false,
            inert: Vec::new(),
        }
    }
}

/// What the arguments ask for.
#[derive(Debug)]
pub enum Parsed {
    /// Run with these options.
    Run(Box<Options>),
    /// Print this on standard output and exit with 0.
    Print(String),
}

/// Why the arguments cannot be used; printed on standard error, exit code 1.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum UsageError {
    /// A flag that does not exist, or a word that is no flag.
    #[error(
        "PARSE ERROR: Argument: {0}\n             Couldn't find match for argument\n\nFor complete USAGE and HELP type: \n   envoy --help\n"
    )]
    Unknown(String),
    /// A flag that wants a value at the end of the line.
    #[error(
        "PARSE ERROR: Argument: {0}\n             Missing a value for this argument!\n\nFor complete USAGE and HELP type: \n   envoy --help\n"
    )]
    Missing(String),
    /// A value that is not of the flag's type.
    #[error(
        "PARSE ERROR: Argument: ({0})\n             Couldn't read argument value from string '{1}'\n\nFor complete USAGE and HELP type: \n   envoy --help\n"
    )]
    Value(String, String),
    /// A flag given twice.
    #[error(
        "PARSE ERROR: Argument: ({0})\n             Argument already set!\n\nFor complete USAGE and HELP type: \n   envoy --help\n"
    )]
    Twice(String),
    /// A value outside the flag's choices.
    #[error("{0}")]
    Choice(String),
}

/// (name, short name, takes a value, help)
const FLAGS: &[(&str, char, bool, &str)] = &[
    ("admin-address-path", ' ', true, "Admin address path"),
    ("allow-unknown-fields", ' ', false, "Allow unknown fields in static configuration (DEPRECATED)"),
    ("allow-unknown-static-fields", ' ', false, "Allow unknown fields in static configuration"),
    ("base-id", ' ', true, "Base ID so that multiple envoys can run on the same host if needed"),
    ("base-id-path", ' ', true, "Path to which the base ID is written"),
    (
        "component-log-level",
        ' ',
        true,
        "Comma-separated list of component log levels. For example upstream:debug,config:trace",
    ),
    ("concurrency", ' ', true, "# of worker threads to run"),
    ("config-path", 'c', true, "Path to configuration file"),
    ("config-yaml", ' ', true, "Inline YAML configuration, merges with the contents of --config-path"),
    ("cpuset-threads", ' ', false, "Get the default # of worker threads from cpuset size"),
    ("disable-extensions", ' ', true, "Comma-separated list of extensions to disable"),
    ("disable-hot-restart", ' ', false, "Disable hot restart functionality"),
    ("drain-strategy", ' ', true, "Hot restart drain sequence behaviour, one of 'gradual' (default) or 'immediate'."),
    ("drain-time-s", ' ', true, "Hot restart and LDS removal drain time in seconds"),
    ("enable-core-dump", ' ', false, "Enable core dumps"),
    ("enable-fine-grain-logging", ' ', false, "Logger mode: enable file level log control (Fine-Grain Logger) or not"),
    ("enable-mutex-tracing", ' ', false, "Enable mutex contention tracing functionality"),
    ("file-flush-interval-msec", ' ', true, "Interval for log flushing in msec"),
    ("file-flush-min-size-kb", ' ', true, "Minimum size in KB for log flushing"),
    ("help", 'h', false, "Displays usage information and exits."),
    ("hot-restart-version", ' ', false, "Hot restart compatibility version"),
    ("ignore-unknown-dynamic-fields", ' ', false, "Ignore unknown fields in dynamic configuration"),
    ("local-address-ip-version", ' ', true, "The local IP address version (v4 or v6)."),
    ("log-format", ' ', true, "Log message format in spdlog syntax"),
    ("log-format-escaped", ' ', false, "Escape c-style escape sequences in the application logs"),
    ("log-level", 'l', true, "Log levels: [trace][debug][info][warning|warn][error][critical][off]"),
    ("log-path", ' ', true, "Path to logfile"),
    ("log-stacktrace-single-entry", ' ', false, "Emit the entire stack trace in a single log entry"),
    (
        "mode",
        ' ',
        true,
        "One of 'serve' (default; validate configs and then serve traffic normally) or 'validate' (validate configs and exit).",
    ),
    ("parent-shutdown-time-s", ' ', true, "Hot restart parent shutdown time in seconds"),
    ("reject-unknown-dynamic-fields", ' ', false, "Reject unknown fields in dynamic configuration"),
    ("restart-epoch", ' ', true, "Hot restart epoch #"),
    ("service-cluster", ' ', true, "Cluster name"),
    ("service-node", ' ', true, "Node name"),
    ("service-zone", ' ', true, "Zone name"),
    (
        "skip-deprecated-logs",
        ' ',
        false,
        "Skips the logging of deprecated field warnings during Protobuf message validation",
    ),
    (
        "skip-hot-restart-on-no-parent",
        ' ',
        false,
        "Continue with a regular startup if there is no parent to take over from",
    ),
    ("skip-hot-restart-parent-stats", ' ', false, "Do not take stats over from the parent"),
    ("socket-mode", ' ', true, "Socket file permission"),
    ("socket-path", ' ', true, "Path to hot restart socket file"),
    ("stats-tag", ' ', true, "A universal tag for all stats, as tag:value (accepted multiple times)"),
    ("use-dynamic-base-id", ' ', false, "The server chooses a base ID dynamically."),
    ("version", ' ', false, "Displays version information and exits."),
];

/// Version of the hand-over protocol; two processes must agree on it.
pub const HOT_RESTART_VERSION: &str = "proa.1";

/// `<revision>/<version>/<status>/<build>/<tls library>`, as Envoy prints itself; tools parse the second part.
pub fn version() -> String {
    format!(
        "proa/{}/Clean/{}/AWS-LC",
        env!("CARGO_PKG_VERSION"),
        if cfg!(debug_assertions) { "DEBUG" } else { "RELEASE" }
    )
}

/// The usage page.
pub fn help() -> String {
    let mut out = String::from("\nUSAGE: \n\n   envoy [flags]\n\nWhere: \n\n");
    for (name, short, value, help) in FLAGS {
        let value = if *value { " <value>" } else { "" };
        let short = if *short == ' ' { String::new() } else { format!("-{short}{value},  ") };
        out.push_str(&format!("   {short}--{name}{value}\n     {help}\n\n"));
    }
    out
}

/// Reads the arguments that follow the program's name.
pub fn parse(args: impl Iterator<Item = OsString>) -> Result<Parsed, UsageError> {
    let mut args = args.map(|a| a.to_string_lossy().into_owned());
    let mut options = Options::default();
    let mut seen: Vec<&str> = Vec::new();
    while let Some(arg) = args.next() {
        if arg == "--" {
            break;
        }
        let (word, mut inline) = match arg.split_once('=') {
            Some((word, value)) if word.starts_with("--") => (word.to_owned(), Some(value.to_owned())),
            _ => (arg.clone(), None),
        };
        let flag = FLAGS.iter().find(|(name, short, value, _)| {
            word.strip_prefix("--") == Some(name)
                || (*short != ' ' && word.strip_prefix('-').is_some_and(|w| w.len() == 1 && w.starts_with(*short)))
                || (*short != ' '
                    && *value
                    && !word.starts_with("--")
                    && word.strip_prefix('-').is_some_and(|w| w.starts_with(*short)))
        });
        let Some((name, short, takes_value, _)) = flag else {
            return Err(UsageError::Unknown(arg));
        };
        // `-ldebug`
        if inline.is_none() && !word.starts_with("--") && word.len() > 2 {
            inline = Some(word[2..].to_owned());
        }
        let shown = if *short == ' ' { format!("--{name}") } else { format!("-{short} (--{name})") };
        if *name != "stats-tag" && seen.contains(name) {
            return Err(UsageError::Twice(shown));
        }
        seen.push(name);
        let value = match (takes_value, inline) {
            (true, Some(value)) => value,
            (true, None) => args.next().ok_or(UsageError::Missing(shown))?,
            (false, None) => String::new(),
            (false, Some(_)) => return Err(UsageError::Unknown(arg)),
        };
        match *name {
            "help" => return Ok(Parsed::Print(help())),
            "version" => return Ok(Parsed::Print(format!("\nenvoy  version: {}\n", version()))),
            "hot-restart-version" => return Ok(Parsed::Print(HOT_RESTART_VERSION.into())),
            _ => set(&mut options, name, value)?,
        }
    }
    if options.use_dynamic_base_id && options.restart_epoch > 0 {
        return Err(UsageError::Choice(format!(
            "error: cannot use --restart-epoch={} with --use-dynamic-base-id",
            options.restart_epoch
        )));
    }
    Ok(Parsed::Run(Box::new(options)))
}

fn set(options: &mut Options, name: &'static str, value: String) -> Result<(), UsageError> {
    let number = || value.parse::<u32>().map_err(|_| UsageError::Value(format!("--{name}"), value.clone()));
    match name {
        "config-path" => options.config_path = value,
        "config-yaml" => options.config_yaml = value,
        "concurrency" => options.concurrency = number()?.max(1) as usize,
        "log-level" => {
            options.log_level = Level::parse(&value)
                .ok_or_else(|| UsageError::Choice(format!("error: invalid log level specified '{value}'")))?;
        }
        "component-log-level" => {
            telemetry::log::check_components(&value).map_err(|e| UsageError::Choice(e.to_string()))?;
            options.component_log_level = value;
        }
        "log-format" => options.log_format = value,
        "log-path" => options.log_path = value,
        "service-node" => options.service_node = value,
        "service-cluster" => options.service_cluster = value,
        "service-zone" => options.service_zone = value,
        "restart-epoch" => options.restart_epoch = number()?,
        "base-id" => options.base_id = number()?,
        "base-id-path" => options.base_id_path = value,
        "drain-time-s" => options.drain_time = Duration::from_secs(number()?.into()),
        "parent-shutdown-time-s" => options.parent_shutdown_time = Duration::from_secs(number()?.into()),
        "drain-strategy" => {
            options.drain_strategy = match value.as_str() {
                "gradual" => DrainStrategy::Gradual,
                "immediate" => DrainStrategy::Immediate,
                _ => {
                    return Err(UsageError::Choice(format!("error: unknown drain-strategy '{value}'")));
                }
            }
        }
        "mode" => {
            options.mode = match value.as_str() {
                "serve" => Mode::Serve,
                "validate" => Mode::Validate,
                "init_only" => Mode::InitOnly,
                _ => return Err(UsageError::Choice(format!("error: unknown mode '{value}'"))),
            }
        }
        "local-address-ip-version" => {
            options.local_address_v6 = match value.as_str() {
                "v4" => false,
                "v6" => true,
                _ => {
                    return Err(UsageError::Choice(format!("error: unknown IP address version '{value}'")));
                }
            }
        }
        "admin-address-path" => options.admin_address_path = value,
        "file-flush-interval-msec" => options.file_flush_interval = Duration::from_millis(number()?.into()),
        "file-flush-min-size-kb" => options.file_flush_min_size = number()?,
        "socket-path" => options.socket_path = value,
        "stats-tag" => {
            let bad = || UsageError::Choice(format!("error: misformatted stats-tag '{value}'"));
            let (tag, text) = value.split_once(':').ok_or_else(bad)?;
            if tag.is_empty() || !tag.bytes().all(|b| b.is_ascii_alphanumeric()) || text.contains('.') {
                return Err(bad());
            }
            options.stats_tags.push((tag.into(), text.into()));
        }
        "use-dynamic-base-id" => options.use_dynamic_base_id = true,
        "disable-hot-restart" => options.disable_hot_restart = true,
        "skip-hot-restart-on-no-parent" => options.skip_hot_restart_on_no_parent = true,
        "skip-hot-restart-parent-stats" => options.skip_hot_restart_parent_stats = true,
        "allow-unknown-fields" | "allow-unknown-static-fields" => options.allow_unknown_static_fields = true,
        "reject-unknown-dynamic-fields" => options.reject_unknown_dynamic_fields = true,
        "ignore-unknown-dynamic-fields" => options.ignore_unknown_dynamic_fields = true,
        "socket-mode" => {
            u32::from_str_radix(&value, 8)
                .map_err(|_| UsageError::Choice(format!("error: invalid socket-mode '{value}'")))?;
        }
        other => options.inert.push(other),
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(line: &str) -> Result<Options, UsageError> {
        match parse(line.split_whitespace().map(OsString::from))? {
            Parsed::Run(o) => Ok(*o),
            Parsed::Print(text) => Err(UsageError::Choice(text)),
        }
    }

    #[test]
    fn envoys_command_line() {
        let o = run("-c a.yaml --concurrency 2 -l debug --service-node=n --drain-time-s 5 --disable-hot-restart --stats-tag a:b").expect("valid");
        assert_eq!(
            (o.config_path.as_str(), o.concurrency, o.log_level, o.service_node.as_str()),
            ("a.yaml", 2, Level::Debug, "n")
        );
        assert_eq!((o.drain_time, o.disable_hot_restart, o.stats_tags.len()), (Duration::from_secs(5), true, 1));
        assert_eq!(run("-lwarn").expect("valid").log_level, Level::Warning);
        assert_eq!(run("--enable-core-dump --cpuset-threads").expect("valid").inert.len(), 2);
    }

    #[test]
    fn envoys_errors() {
        let check = |line: &str, text: &str| {
            let error = run(line).expect_err(line).to_string();
            assert!(error.starts_with(text), "{line}: {error}");
        };
        check("--foo", "PARSE ERROR: Argument: --foo\n             Couldn't find match for argument");
        check("bar", "PARSE ERROR: Argument: bar");
        check("-c", "PARSE ERROR: Argument: -c (--config-path)\n             Missing a value");
        check(
            "--concurrency abc",
            "PARSE ERROR: Argument: (--concurrency)\n             Couldn't read argument value from string 'abc'",
        );
        check("-c a -c b", "PARSE ERROR: Argument: (-c (--config-path))");
        check("-l foo", "error: invalid log level specified 'foo'");
        check("--mode foo", "error: unknown mode 'foo'");
        check("--component-log-level foo:debug", "error: invalid component specified 'foo'");
        check("--use-dynamic-base-id --restart-epoch 1", "error: cannot use");
        check("--version", "\nenvoy  version: proa/");
    }
}
