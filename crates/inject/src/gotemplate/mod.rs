//! How does a Go template become text? The language of Istio's custom injection templates (`text/template` with the
//! functions its templates use), over JSON values. Called for templates of `sidecarInjectorWebhook.templates`.
//!
//! Field names are looked up as written, then without regard to case, then without a leading `Get`, so that
//! `.Spec.Containers`, `.ProxyConfig.GetTracing` and `.Values.global.hub` all read JSON. Deliberately absent: method
//! calls with effects, files, clocks, randomness.

mod eval;
mod functions;
mod parse;

use serde_json::Value;

pub use functions::{omit_nil, tcp_ports};

/// A template that cannot be parsed or run.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("line {line}: {message}")]
pub struct TemplateError {
    /// Line in the template, from 1.
    pub line: u32,
    /// What went wrong.
    pub message: String,
}

/// Most bytes a template may produce.
pub const OUTPUT_BYTES_MAX: usize = 4 << 20;
/// Deepest nesting of blocks, parentheses and template calls.
pub const DEPTH_MAX: usize = 64;

/// Renders a template with `data` as dot.
///
/// # Errors
/// Syntax, unknown functions or variables, wrong arguments, or a limit.
pub fn render(text: &str, data: &Value) -> Result<String, TemplateError> {
    let template = parse::parse(text)?;
    eval::run(&template, data)
}

#[cfg(test)]
mod tests {
    use super::render;
    use serde_json::json;

    #[test]
    fn language() {
        let data = json!({
            "Values": {"global": {"hub": "h", "n": 3, "list": ["a", "b"], "empty": ""}},
            "Spec": {"containers": [{"name": "x", "ports": [{"containerPort": 80}]}, {"name": "w"}]},
            "ObjectMeta": {"Annotations": {"k": "v"}, "Labels": null},
            "ProxyConfig": {"tracing": {"tlsSettings": {"caCertificates": "/a/b.pem"}}, "proxyMetadata": {"A": "1", "B": "2"}},
        });
        let check = |text: &str, want: &str| assert_eq!(render(text, &data).as_deref(), Ok(want), "{text}");
        check("a{{ .Values.global.hub }}b", "ahb");
        check("{{- .Values.global.hub -}}  x", "hx");
        check("{{ if eq .Values.global.hub `h` }}y{{ else }}n{{ end }}", "y");
        check("{{ if .Values.global.empty }}1{{ else if .Values.global.n }}2{{ else }}3{{ end }}", "2");
        check("{{ range $i, $c := .Spec.Containers }}{{ if $i }},{{ end }}{{ $c.Name }}{{ end }}", "x,w");
        check("{{ range .Values.global.list }}[{{ . }}]{{ end }}", "[a][b]");
        check("{{ range $k, $v := .ProxyConfig.ProxyMetadata }}{{ $k }}={{ $v }};{{ end }}", "A=1;B=2;");
        check("{{ range .Values.none }}x{{ else }}none{{ end }}", "none");
        check("{{ with .ObjectMeta.Annotations }}{{ .k }}{{ end }}", "v");
        check("{{ $x := 1 }}{{ if true }}{{ $x = 2 }}{{ end }}{{ $x }}", "2");
        check("{{ define \"t\" }}<{{ . }}>{{ end }}{{ template \"t\" .Values.global.hub }}", "<h>");
        check("{{ annotation .ObjectMeta `k` `d` }}{{ annotation .ObjectMeta `z` `d` }}", "vd");
        check("{{ isset .ObjectMeta.Annotations `k` }}", "true");
        check("{{ valueOrDefault .Values.global.empty `d` }}", "d");
        check("{{ .ProxyConfig.GetTracing.GetTlsSettings.GetCaCertificates | directory }}", "/a/");
        check("{{ printf \"%s-%d\" .Values.global.hub 5 | quote }}", "\"h-5\"");
        check(
            "{{ toYaml .Spec.Containers | nindent 2 }}",
            "\n  - name: x\n    ports:\n    - containerPort: 80\n  - name: w",
        );
        // Istio's `indent` leaves the first line where the template puts it.
        check(
            "{{ toYaml .Spec.Containers | indent 2 }}",
            "- name: x\n    ports:\n    - containerPort: 80\n  - name: w",
        );
        check("{{ index .Values.global.list 1 }}{{ len .Values.global.list }}", "b2");
        check("{{ and 1 0 }}{{ or \"\" \"z\" }}{{ not true }}", "0zfalse");
        check("{{ default \"d\" .Values.global.empty }}{{ join \"-\" .Values.global.list }}", "da-b");
        check("{{/* nothing */}}{{ \"a\\n\" | trim }}", "a");
        check("{{ $.Values.global.hub }}", "h");
        check("{{ (index .Spec.Containers 0).Name | upper | trunc 1 }}", "X");
        check("{{ if and (eq 1 1) (ne `a` `b`) (gt 2 1) }}ok{{ end }}", "ok");
    }

    #[test]
    fn mistakes() {
        for bad in [
            "{{",
            "{{ if }}x{{ end }}",
            "{{ nope 1 }}",
            "{{ $x }}",
            "{{ if true }}",
            "{{ end }}",
            "{{ template \"t\" }}",
            "{{ \"a }}",
            "{{ define \"r\" }}{{ template \"r\" }}{{ end }}{{ template \"r\" }}",
        ] {
            assert!(render(bad, &json!({})).is_err(), "{bad}");
        }
        assert_eq!(
            render("a\nb {{ nope }}", &json!({})).unwrap_err().to_string(),
            "line 2: function \"nope\" is not known"
        );
    }

    proptest::proptest! {
        #[test]
        fn never_panics(text in "(\\{\\{|\\}\\}|[a-z .$|()\"`:=,-]|if|range|end|else|with){0,40}") {
            let _ = render(&text, &json!({"a": [1, 2]}));
        }
    }
}
