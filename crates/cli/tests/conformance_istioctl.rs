//! Do the tables look like istioctl's? Reads the conformance data beside the checkout (`../shared/conformance`) or in
//! `PROA_CONFORMANCE`; without it says so and passes. Prints one JSON line with the counts.

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::Value;

fn data() -> Option<PathBuf> {
    let root = std::env::var_os("PROA_CONFORMANCE")
        .map_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../shared/conformance"), PathBuf::from);
    let folder = root.join("istioctl");
    folder.is_dir().then_some(folder)
}

/// Every pair of a dump and the table that istioctl prints of it.
fn pairs(folder: &Path) -> Vec<(&'static str, PathBuf, PathBuf)> {
    let testdata = folder.join("writer/envoy/configdump/testdata");
    let mut pairs = vec![
        ("eds", testdata.join("endpoint/configdump.json"), testdata.join("endpoint/emptyfilter_output.txt")),
        ("ecds", testdata.join("ecds/configdump.json"), testdata.join("ecds/output.txt")),
        ("version", testdata.join("configdump.json"), testdata.join("versionsummary.txt")),
    ];
    for (kind, name, dump, output) in
        [("route", "routes", "configdump.json", "output.txt"), ("secret", "secret", "config_dump.json", "output")]
    {
        for entry in fs::read_dir(testdata.join(name)).into_iter().flatten().flatten() {
            pairs.push((kind, entry.path().join(dump), entry.path().join(output)));
        }
    }
    pairs.retain(|(_, dump, output)| dump.exists() && output.exists());
    pairs.sort();
    pairs
}

#[test]
fn conformance_istioctl() {
    let Some(folder) = data() else {
        println!("istioctl: did not run, no conformance data (set PROA_CONFORMANCE)");
        return;
    };
    let (mut passed, mut failed, mut not_served) = (0, 0, 0);
    for (kind, dump, output) in pairs(&folder) {
        let dump: Value = serde_json::from_str(&fs::read_to_string(&dump).expect("readable")).expect("JSON");
        let expect = fs::read_to_string(&output).expect("readable");
        match cli::proxy_config::table_of(kind, &dump) {
            Ok(got) if got.trim() == expect.trim() => passed += 1,
            Ok(got) => {
                let differ = got.trim().lines().zip(expect.trim().lines()).find(|(a, b)| a != b);
                eprintln!("{kind} {}: {differ:#?}", output.display());
                failed += 1;
            }
            Err(reason) => {
                eprintln!("{kind} {}: not served: {reason}", output.display());
                not_served += 1;
            }
        }
    }
    println!(r#"{{"area":"istioctl","passed":{passed},"failed":{failed},"allowed":0,"not_served":{not_served}}}"#);
    assert_eq!(failed, 0, "tables differ");
}
