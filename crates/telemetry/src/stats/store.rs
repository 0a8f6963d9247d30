//! All scopes of one proxy: making them, finding them again, walking them in name order.

use std::borrow::Cow;
use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap, HashMap, HashSet};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::rc::Rc;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use super::block::{Block, Core, Kind};
use super::envoy::ssl_certificate;
use super::histogram::{BUCKETS, Bins};
use super::matcher::{NameMatcher, StatsMatcher};
use super::schema::{Schema, SchemaDef};
use super::tags::{Extraction, TagExtractor, TagSpec};

/// Histogram buckets for the stats whose name matches.
#[derive(Debug, Clone)]
pub struct HistogramBuckets {
    /// Which histograms.
    pub matcher: NameMatcher,
    /// Upper bounds, ascending.
    pub bounds: Vec<f64>,
}

/// How a store is set up, from `envoy.config.metrics.v3.StatsConfig`.
#[derive(Debug, Clone)]
pub struct StoreOptions {
    /// Number of workers that get cells of their own.
    pub workers: usize,
    /// Tags beside Envoy's defaults.
    pub tags: Vec<TagSpec>,
    /// Extract Envoy's default tags (`use_all_default_tags`).
    pub default_tags: bool,
    /// Which stats are printed.
    pub matcher: StatsMatcher,
    /// `histogram_bucket_settings`; first match wins, else [`BUCKETS`].
    pub buckets: Vec<HistogramBuckets>,
}

impl Default for StoreOptions {
    fn default() -> Self {
        Self { workers: 1, tags: Vec::new(), default_tags: true, matcher: StatsMatcher::All, buckets: Vec::new() }
    }
}

/// The value of one stat.
#[derive(Debug, Clone)]
pub enum MetricKind {
    /// Monotone count.
    Counter(u64),
    /// Current level.
    Gauge(u64),
    /// Text.
    Text(Box<str>),
    /// Distribution since start, and within the last flush interval.
    Histogram {
        /// Since start.
        cumulative: Bins,
        /// Within the last whole flush interval.
        interval: Bins,
    },
}

/// One stat as a reader sees it.
#[derive(Debug)]
pub struct Metric<'a> {
    /// Full name.
    pub name: &'a str,
    /// Ever written.
    pub used: bool,
    /// Its value.
    pub value: MetricKind,
    core: &'a Core,
}

impl Metric<'_> {
    /// Writes the name without its tags into `bare` and calls `tag` for each tag.
    pub fn untag(&self, extraction: &Extraction<'_>, bare: &mut String, tag: impl FnMut(&str, &str)) {
        untag(self.core, self.name, extraction, bare, tag);
    }
}

/// See [`Metric::untag`].
pub(crate) fn untag(
    core: &Core,
    name: &str,
    extraction: &Extraction<'_>,
    bare: &mut String,
    mut tag: impl FnMut(&str, &str),
) {
    if core.tags.is_empty() {
        extraction.extract(name, bare, tag);
    } else {
        bare.clear();
        bare.push_str(name.strip_suffix(&*core.suffix).unwrap_or(name));
        core.tags.iter().for_each(|(k, v)| tag(k, v));
    }
}

/// Who holds certificates. When they end is not kept but asked for when stats are shown: a mesh has thousands of holders of one
/// certificate.
pub trait Expiring: Send + Sync {
    /// Calls `each` with the scope (`listener.<address>.ssl.certificate.<name>.`) and the moment, in seconds since 1970.
    fn expiries(&self, each: &mut dyn FnMut(String, u64));
}

/// All stats of one proxy.
#[derive(Debug)]
pub struct Store {
    options: StoreOptions,
    extractor: TagExtractor,
    blocks: Mutex<HashMap<u64, Weak<Core>>>,
    expiring: Mutex<Vec<Weak<dyn Expiring>>>,
}

/// Envoy's clean-up of scope names: `:` and the like become `_`.
pub fn sanitize(name: &str) -> Cow<'_, str> {
    if !name.contains([':', '\0']) {
        return Cow::Borrowed(name);
    }
    Cow::Owned(name.replace("://", "_").replace(":/", "_").replace([':', '\0'], "_"))
}

impl Store {
    /// An empty store.
    pub fn new(options: StoreOptions) -> Arc<Self> {
        let extractor = TagExtractor::new(options.default_tags, options.tags.clone());
        Arc::new(Self { options, extractor, blocks: Mutex::default(), expiring: Mutex::default() })
    }

    /// Number of workers with cells of their own.
    pub fn workers(&self) -> usize {
        self.options.workers
    }

    /// How names are told from their tags.
    pub fn extractor(&self) -> &TagExtractor {
        &self.extractor
    }

    pub(crate) fn matcher(&self) -> &StatsMatcher {
        &self.options.matcher
    }

    /// Bucket bounds of a histogram.
    pub fn bounds(&self, name: &str) -> &[f64] {
        self.options.buckets.iter().find(|b| b.matcher.matches(name)).map_or(&BUCKETS[..], |b| &b.bounds)
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<u64, Weak<Core>>> {
        self.blocks.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The block of table `S` under `prefix` (with its final dot; sanitized as Envoy does). The same prefix gives the same block for as long
    /// as any handle lives; afterwards the stats are gone, as Envoy's are with their scope.
    pub fn block<S: Schema>(&self, prefix: &str) -> Block<S> {
        Block::of(self.core(S::DEF, &sanitize(prefix), &[]))
    }

    /// A block whose names carry explicit tags, as Istio's standard metrics do. `prefix` is not sanitized.
    pub fn tagged_block<S: Schema>(&self, prefix: &str, tags: &[(&str, &str)]) -> Block<S> {
        Block::of(self.core(S::DEF, prefix, tags))
    }

    fn core(&self, def: &'static SchemaDef, prefix: &str, tags: &[(&str, &str)]) -> Arc<Core> {
        let mut hasher = DefaultHasher::new();
        (std::ptr::from_ref(def) as usize, prefix, tags).hash(&mut hasher);
        let mut key = hasher.finish();
        let same = |core: &Core| {
            std::ptr::eq(core.def, def)
                && &*core.prefix == prefix
                && core.tags.len() == tags.len()
                && core.tags.iter().zip(tags).all(|(a, b)| *a.0 == *b.0 && *a.1 == *b.1)
        };
        let mut blocks = self.lock();
        loop {
            match blocks.get(&key).and_then(Weak::upgrade) {
                Some(core) if same(&core) => return core,
                // Another block hashes the same: look at the next key.
                Some(_) => key = key.wrapping_add(1),
                None => {
                    let tags = tags.iter().map(|(k, v)| ((*k).into(), (*v).into())).collect();
                    let core = Arc::new(Core::new(def, prefix, tags, self.options.workers));
                    blocks.insert(key, Arc::downgrade(&core));
                    return core;
                }
            }
        }
    }

    /// Shows when the certificates of `holder` end, for as long as it lives.
    pub fn expires(&self, holder: Weak<dyn Expiring>) {
        self.expiring.lock().unwrap_or_else(PoisonError::into_inner).push(holder);
    }

    /// Blocks of all certificates' ends; of two holders under one scope the later counts.
    fn ends(&self) -> impl Iterator<Item = Arc<Core>> {
        let holders = self.expiring.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let mut ends = BTreeMap::new();
        for holder in holders.iter().filter_map(Weak::upgrade) {
            holder.expiries(&mut |scope, at| {
                ends.insert(scope, at);
            });
        }
        ends.into_iter().map(|(scope, at)| {
            let core = Core::new(ssl_certificate::SslCertificate::DEF, &scope, Box::default(), 0);
            let block = Block::<ssl_certificate::SslCertificate>::of(Arc::new(core));
            block.gauge_set(ssl_certificate::EXPIRATION_UNIX_TIME_SECONDS, at);
            block.0
        })
    }

    fn live(&self) -> Vec<Arc<Core>> {
        self.lock().values().filter_map(Weak::upgrade).collect()
    }

    /// All live blocks by prefix, with the companions that nobody has made yet.
    pub(crate) fn cores(&self) -> Vec<Arc<Core>> {
        let mut all = self.live();
        let id = |def: &SchemaDef| std::ptr::from_ref(def) as usize;
        let made: HashSet<(usize, &str)> = all.iter().map(|c| (id(c.def), &*c.prefix)).collect();
        let mut absent = Vec::new();
        for core in &all {
            // Envoy's admin interface has a connection manager without tracing.
            for (suffix, def) in super::envoy::companions(core.def).iter().filter(|_| *core.prefix != *"http.admin.") {
                let prefix = format!("{}{suffix}", core.prefix);
                if !made.contains(&(id(def), &prefix)) {
                    absent.push(Arc::new(Core::new(def, &prefix, Box::default(), 0)));
                }
            }
        }
        all.extend(absent);
        all.extend(self.ends());
        all.sort_by(|a, b| a.prefix.cmp(&b.prefix));
        all
    }

    /// All counters start again from zero (`/reset_counters`).
    pub fn reset_counters(&self) {
        self.live().iter().for_each(|c| c.reset_counters());
    }

    /// Closes the histogram interval and forgets dead scopes; called every `stats_flush_interval`.
    pub fn flush(&self) {
        self.lock().retain(|_, core| core.strong_count() > 0);
        self.expiring.lock().unwrap_or_else(PoisonError::into_inner).retain(|holder| holder.strong_count() > 0);
        self.live().iter().for_each(|c| c.flush());
    }

    /// Visits every stat that the matcher lets through, histograms after all others, each group in name order, as `/stats` prints them.
    pub fn visit(&self, mut each: impl FnMut(&Metric<'_>)) {
        let cores = self.cores();
        for histograms in [false, true] {
            walk(&cores, histograms, |name, core, kind, id| {
                if self.options.matcher.rejects(name) {
                    return;
                }
                each(&metric(name, core, kind, id));
            });
        }
    }
}

pub(crate) fn metric<'a>(name: &'a str, core: &'a Core, kind: Kind, id: u16) -> Metric<'a> {
    let used = core.used(kind, id);
    let value = match kind {
        Kind::Counter => MetricKind::Counter(core.read_counter(id)),
        Kind::Gauge => MetricKind::Gauge(core.read_gauge(id)),
        Kind::Text => MetricKind::Text(core.read_text(id).unwrap_or_default()),
        Kind::Histogram => {
            MetricKind::Histogram { cumulative: core.read_histogram(id), interval: core.read_interval(id) }
        }
        Kind::Code => MetricKind::Counter(core.read_codes().iter().find(|c| c.0 == id).map_or(0, |c| c.1)),
    };
    Metric { name, used, value, core }
}

type Row = (Cow<'static, str>, Kind, u16, bool);

/// The rows of a table in name order, without status codes.
fn rows(def: &'static SchemaDef, histograms: bool) -> Vec<Row> {
    let table = |defs: &'static [super::schema::StatDef], kind| {
        defs.iter().enumerate().map(move |(id, d)| (Cow::Borrowed(d.name), kind, id as u16, d.lazy))
    };
    let mut all: Vec<Row> = if histograms {
        table(def.histograms, Kind::Histogram).collect()
    } else {
        table(def.counters, Kind::Counter)
            .chain(table(def.gauges, Kind::Gauge))
            .chain(table(def.texts, Kind::Text))
            .collect()
    };
    all.sort_by(|a, b| a.0.cmp(&b.0));
    all
}

struct Cursor {
    name: String,
    block: usize,
    rows: Rc<Vec<Row>>,
    at: usize,
}

impl PartialEq for Cursor {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other).is_eq()
    }
}
impl Eq for Cursor {}
impl PartialOrd for Cursor {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}
impl Ord for Cursor {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        (&self.name, self.block).cmp(&(&other.name, other.block))
    }
}

/// Walks all stats of sorted `cores` in order of full names, holding one name per overlapping block only.
pub(crate) fn walk<'a>(cores: &'a [Arc<Core>], histograms: bool, mut each: impl FnMut(&str, &'a Core, Kind, u16)) {
    let mut tables: HashMap<usize, Rc<Vec<Row>>> = HashMap::new();
    let mut heap: BinaryHeap<Reverse<Cursor>> = BinaryHeap::new();
    let mut next = 0;
    loop {
        // A block joins once no name before its prefix is left.
        while next < cores.len() && heap.peek().is_none_or(|Reverse(c)| *cores[next].prefix <= *c.name) {
            let core = &cores[next];
            let table = tables
                .entry(std::ptr::from_ref(core.def) as usize)
                .or_insert_with(|| Rc::new(rows(core.def, histograms)));
            let mut list = table.clone();
            if !histograms && !core.def.codes.is_empty() {
                let codes = core.read_codes();
                if !codes.is_empty() {
                    let mut own = Vec::clone(&list);
                    own.extend(codes.iter().filter_map(|&(key, _)| {
                        let family = core.def.codes.get((key >> 12) as usize)?;
                        Some((Cow::Owned(format!("{}{}", family.prefix, key & 0xfff)), Kind::Code, key, true))
                    }));
                    own.sort_by(|a, b| a.0.cmp(&b.0));
                    list = Rc::new(own);
                }
            }
            if let Some(first) = list.first() {
                let name = format!("{}{}{}", core.prefix, first.0, core.suffix);
                heap.push(Reverse(Cursor { name, block: next, rows: list, at: 0 }));
            }
            next += 1;
        }
        let Some(Reverse(mut cursor)) = heap.pop() else {
            break;
        };
        let core = &*cores[cursor.block];
        let (_, kind, id, lazy) = cursor.rows[cursor.at];
        if !lazy || core.used(kind, id) {
            each(&cursor.name, core, kind, id);
        }
        cursor.at += 1;
        if let Some(row) = cursor.rows.get(cursor.at) {
            cursor.name.truncate(core.prefix.len());
            cursor.name.push_str(&row.0);
            cursor.name.push_str(&core.suffix);
            heap.push(Reverse(cursor));
        } else if next >= cores.len() && heap.is_empty() {
            break;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    #[allow(dead_code)]
    mod t {
        crate::stat_schema! { T;
            counters { Z = "z", A = "a", L = "l" lazy } gauges { G = "g" } histograms { H = "h" ms } texts {} codes { C = "rq_" }
        }
    }

    #[test]
    fn same_prefix_same_block_until_dropped() {
        let store = Store::new(StoreOptions::default());
        let a: Block<t::T> = store.block("listener.0.0.0.0:80.");
        a.inc(t::A);
        assert_eq!(store.block::<t::T>("listener.0.0.0.0_80.").counter(t::A), 1);
        drop(a);
        assert_eq!(store.block::<t::T>("listener.0.0.0.0_80.").counter(t::A), 0);
    }

    #[test]
    fn names_come_sorted_across_nested_scopes() {
        let store = Store::new(StoreOptions::default());
        let blocks: Vec<Block<t::T>> = ["b.", "b.c.", "a.", "b.h."].iter().map(|p| store.block(p)).collect();
        blocks[0].code(t::C, 200);
        blocks[1].inc(t::L);
        let mut names = Vec::new();
        store.visit(|m| names.push((matches!(m.value, MetricKind::Histogram { .. }), m.name.to_owned())));
        let mut sorted = names.clone();
        sorted.sort();
        assert_eq!(names, sorted);
        assert_eq!(names.len(), 4 * 4 + 2);
        assert!(names.iter().any(|n| n.1 == "b.rq_200") && names.iter().any(|n| n.1 == "b.c.l"));
    }
}
