//! Which stats does a scope have? Static tables and the typed ids that index them.

use std::marker::PhantomData;

/// One row of a table: the name after the scope's prefix.
#[derive(Debug)]
pub struct StatDef {
    /// Envoy's name, such as `upstream_rq_total`.
    pub name: &'static str,
    /// Printed only once touched, as stats that Envoy creates on first use are.
    pub lazy: bool,
    /// Unit of a histogram; [`Unit::Plain`] for the rest.
    pub unit: Unit,
}

/// What a histogram's values are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unit {
    /// No unit.
    Plain,
    /// Milliseconds.
    Ms,
    /// Microseconds.
    Us,
    /// Bytes.
    Bytes,
}

/// A family of counters named by prefix and HTTP status code (`upstream_rq_` → `upstream_rq_200`).
#[derive(Debug)]
pub struct CodeDef {
    /// The prefix before the code.
    pub prefix: &'static str,
}

/// The whole table of one kind of scope.
#[derive(Debug)]
pub struct SchemaDef {
    /// Monotone counters.
    pub counters: &'static [StatDef],
    /// Gauges.
    pub gauges: &'static [StatDef],
    /// Histograms.
    pub histograms: &'static [StatDef],
    /// Text readouts.
    pub texts: &'static [StatDef],
    /// Per-status counters.
    pub codes: &'static [CodeDef],
}

/// Marker type of a table, made by [`stat_schema!`](crate::stat_schema).
pub trait Schema: Copy + Send + Sync + 'static {
    /// The table.
    const DEF: &'static SchemaDef;
}

macro_rules! id {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        pub struct $name<S>(pub(crate) u16, PhantomData<fn() -> S>);
        impl<S> $name<S> {
            /// The id of row `index`; made by the table macro only.
            #[doc(hidden)]
            pub const fn new(index: u16) -> Self { Self(index, PhantomData) }
        }
        impl<S> Clone for $name<S> { fn clone(&self) -> Self { *self } }
        impl<S> Copy for $name<S> {}
    };
}
id!(
    /// Names a counter of table `S`.
    Counter
);
id!(
    /// Names a gauge of table `S`.
    Gauge
);
id!(
    /// Names a histogram of table `S`.
    Histogram
);
id!(
    /// Names a text readout of table `S`.
    Text
);
id!(
    /// Names a per-status counter family of table `S`.
    Code
);

/// Declares a table of stats: a marker type and one constant per stat, in the module where it is invoked.
///
/// `lazy` after a name means "printed once used". Histograms take a unit: `plain`, `ms`, `us` or `bytes`.
///
/// ```
/// mod cors {
///     telemetry::stat_schema! { Cors;
///         counters { ORIGIN_INVALID = "cors.origin_invalid", ORIGIN_VALID = "cors.origin_valid" }
///         gauges {} histograms {} texts {} codes {}
///     }
/// }
/// let store = telemetry::stats::Store::new(Default::default());
/// let block: telemetry::stats::Block<cors::Cors> = store.block("http.ingress.");
/// block.inc(cors::ORIGIN_VALID);
/// assert_eq!(block.counter(cors::ORIGIN_VALID), 1);
/// ```
#[macro_export]
macro_rules! stat_schema {
    ($(#[$doc:meta])* $tag:ident;
     counters { $($cid:ident = $cname:literal $($clazy:ident)?),* $(,)? }
     gauges { $($gid:ident = $gname:literal $($glazy:ident)?),* $(,)? }
     histograms { $($hid:ident = $hname:literal $hunit:ident $($hlazy:ident)?),* $(,)? }
     texts { $($tid:ident = $tname:literal $($tlazy:ident)?),* $(,)? }
     codes { $($xid:ident = $xname:literal),* $(,)? }
    ) => {
        $(#[$doc])*
        #[doc = "Marker of this table of stats."]
        #[derive(Debug, Clone, Copy)]
        pub struct $tag;
        impl $crate::stats::Schema for $tag {
            const DEF: &'static $crate::stats::SchemaDef = &TABLE;
        }
        static TABLE: $crate::stats::SchemaDef = $crate::stats::SchemaDef {
            counters: &[$($crate::stats::StatDef { name: $cname, lazy: $crate::stat_schema!(@lazy $($clazy)?), unit: $crate::stats::Unit::Plain }),*],
            gauges: &[$($crate::stats::StatDef { name: $gname, lazy: $crate::stat_schema!(@lazy $($glazy)?), unit: $crate::stats::Unit::Plain }),*],
            histograms: &[$($crate::stats::StatDef { name: $hname, lazy: $crate::stat_schema!(@lazy $($hlazy)?), unit: $crate::stat_schema!(@unit $hunit) }),*],
            texts: &[$($crate::stats::StatDef { name: $tname, lazy: $crate::stat_schema!(@lazy $($tlazy)?), unit: $crate::stats::Unit::Plain }),*],
            codes: &[$($crate::stats::CodeDef { prefix: $xname }),*],
        };
        #[allow(non_camel_case_types, clippy::upper_case_acronyms, dead_code)]
        #[repr(u16)]
        enum CounterIndex { $($cid,)* END }
        #[allow(non_camel_case_types, clippy::upper_case_acronyms, dead_code)]
        #[repr(u16)]
        enum GaugeIndex { $($gid,)* END }
        #[allow(non_camel_case_types, clippy::upper_case_acronyms, dead_code)]
        #[repr(u16)]
        enum HistogramIndex { $($hid,)* END }
        #[allow(non_camel_case_types, clippy::upper_case_acronyms, dead_code)]
        #[repr(u16)]
        enum TextIndex { $($tid,)* END }
        #[allow(non_camel_case_types, clippy::upper_case_acronyms, dead_code)]
        #[repr(u16)]
        enum CodeIndex { $($xid,)* END }
        $(#[doc = concat!("`", $cname, "`")] pub const $cid: $crate::stats::Counter<$tag> = $crate::stats::Counter::new(CounterIndex::$cid as u16);)*
        $(#[doc = concat!("`", $gname, "`")] pub const $gid: $crate::stats::Gauge<$tag> = $crate::stats::Gauge::new(GaugeIndex::$gid as u16);)*
        $(#[doc = concat!("`", $hname, "`")] pub const $hid: $crate::stats::Histogram<$tag> = $crate::stats::Histogram::new(HistogramIndex::$hid as u16);)*
        $(#[doc = concat!("`", $tname, "`")] pub const $tid: $crate::stats::Text<$tag> = $crate::stats::Text::new(TextIndex::$tid as u16);)*
        $(#[doc = concat!("`", $xname, "<code>`")] pub const $xid: $crate::stats::Code<$tag> = $crate::stats::Code::new(CodeIndex::$xid as u16);)*
    };
    (@lazy) => { false };
    (@lazy lazy) => { true };
    (@unit plain) => { $crate::stats::Unit::Plain };
    (@unit ms) => { $crate::stats::Unit::Ms };
    (@unit us) => { $crate::stats::Unit::Us };
    (@unit bytes) => { $crate::stats::Unit::Bytes };
}
