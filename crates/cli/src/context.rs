//! Which mesh and which namespace does a command mean? Flags of every command, and the connection they lead to.

use std::io;
use std::net::TcpStream;
use std::path::PathBuf;

use clap::Args;
use mesh::{ApiError, Client, Layout};
use serde_json::{Value, json};

/// Flags of every command.
#[derive(Clone, Debug, Args)]
pub struct Global {
    /// Namespace [default: default]
    #[arg(short, long, global = true, value_name = "NS", help_heading = "Global")]
    pub namespace: Option<String>,
    /// Which local mesh
    #[arg(
        long,
        global = true,
        env = "PROA_MESH",
        default_value = "default",
        value_name = "NAME",
        help_heading = "Global"
    )]
    pub mesh: String,
    /// Where local meshes keep their state [default: /run/proa, or $XDG_RUNTIME_DIR/proa]
    #[arg(long, global = true, env = "PROA_STATE_DIR", value_name = "DIR", help_heading = "Global")]
    pub state_dir: Option<PathBuf>,
    /// Namespace of the control plane
    #[arg(long = "istioNamespace", global = true, default_value = "istio-system", hide = true)]
    pub istio_namespace: String,
}

/// Why a command failed, in words that name what helps.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    /// The mesh.
    #[error(transparent)]
    Api(#[from] ApiError),
    /// A file or a terminal.
    #[error("{what}: {source}")]
    Io {
        /// What was used.
        what: String,
        /// What went wrong.
        source: io::Error,
    },
    /// The reader of our output has gone.
    #[error("broken pipe")]
    BrokenPipe,
    /// Anything a sentence says best.
    #[error("{0}")]
    Said(String),
}

impl From<String> for Failure {
    fn from(text: String) -> Self {
        Self::Said(text)
    }
}

impl Failure {
    /// An I/O error with what it concerns.
    pub(crate) fn io(what: &str) -> impl FnOnce(io::Error) -> Self {
        let what = what.to_owned();
        move |source| Self::Io { what, source }
    }
}

/// Prints to standard output; a reader that has gone ends the command quietly.
pub(crate) fn print(text: &str) -> Result<(), Failure> {
    use std::io::Write;
    let mut out = io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Err(Failure::BrokenPipe),
        Err(error) => Err(Failure::io("standard output")(error)),
        Ok(()) => Ok(()),
    }
}

impl Global {
    pub(crate) fn layout(&self) -> Layout {
        Layout::new(&self.mesh, self.state_dir.as_deref())
    }

    pub(crate) fn client(&self) -> Result<Client, Failure> {
        Ok(Client::connect(&self.layout())?)
    }

    pub(crate) fn ask(&self, request: &Value) -> Result<Value, Failure> {
        Ok(self.client()?.ask(request)?)
    }

    /// The namespace asked for, or `default`.
    pub(crate) fn namespace(&self) -> &str {
        self.namespace.as_deref().unwrap_or("default")
    }

    /// A pod reference and its namespace; `NAME.NAMESPACE` is understood as istioctl does.
    pub(crate) fn pod<'a>(&'a self, reference: &'a str) -> (&'a str, &'a str) {
        match reference.rsplit_once('.') {
            Some((name, namespace)) if self.namespace.is_none() => (name, namespace),
            _ => (reference, self.namespace()),
        }
    }

    /// A connection to `port` inside a pod.
    pub(crate) fn dial(&self, reference: &str, port: u16) -> Result<TcpStream, Failure> {
        let (pod, namespace) = self.pod(reference);
        let request = json!({"op": "dial", "pod": pod, "namespace": namespace, "port": port});
        let (_, mut descriptors) = self.client()?.call(&request, &[])?;
        let stream = TcpStream::from(descriptors.pop().ok_or_else(|| "the mesh sent no connection".to_owned())?);
        stream.set_nonblocking(false).map_err(Failure::io("connection"))?;
        Ok(stream)
    }
}
