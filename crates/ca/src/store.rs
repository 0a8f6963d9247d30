//! Where does the signing key live? A directory with Istio's `cacerts` file names, plugged in or made by us.

use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use pki::{Authority, KeyAlgorithm, PkiError};

const KEY: &str = "ca-key.pem";
const CERT: &str = "ca-cert.pem";
const CHAIN: &str = "cert-chain.pem";
const ROOT: &str = "root-cert.pem";

/// Why there is no usable signing key.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// A file cannot be read or written.
    #[error("{path}: {error}")]
    Io {
        /// Which file.
        path: PathBuf,
        /// The system's reason.
        error: std::io::Error,
    },
    /// The material is broken or does not belong together.
    #[error("{path}: {error}")]
    Pki {
        /// The directory.
        path: PathBuf,
        /// What is wrong with it.
        error: PkiError,
    },
}

/// Reads `ca-key.pem`, `ca-cert.pem`, `cert-chain.pem` and `root-cert.pem`, or Kubernetes' `tls.key`,
/// `tls.crt` and `ca.crt`. `None`: the directory holds no key.
pub fn load(dir: &Path) -> Result<Option<Authority>, StoreError> {
    for [key, cert, chain, root] in [[KEY, CERT, CHAIN, ROOT], ["tls.key", "tls.crt", "tls.crt", "ca.crt"]] {
        let Some(key) = read(&dir.join(key))? else {
            continue;
        };
        let or_empty = |name: &str| Ok(read(&dir.join(name))?.unwrap_or_default());
        let authority = Authority::from_pem(&key, &or_empty(cert)?, &or_empty(chain)?, &or_empty(root)?);
        return authority.map(Some).map_err(|error| StoreError::Pki { path: dir.to_owned(), error });
    }
    Ok(None)
}

/// As [`load`]; an empty directory gets a new self-signed root of `trust_domain`, so that a restarted
/// process goes on with the same one.
pub fn load_or_create(
    dir: &Path,
    trust_domain: &str,
    alg: KeyAlgorithm,
    now: SystemTime,
) -> Result<Authority, StoreError> {
    if let Some(authority) = load(dir)? {
        return Ok(authority);
    }
    let authority = Authority::self_signed(trust_domain, alg, now, crate::random_serial())
        .map_err(|error| StoreError::Pki { path: dir.to_owned(), error })?;
    std::fs::create_dir_all(dir).map_err(|error| StoreError::Io { path: dir.to_owned(), error })?;
    // The key last: without it the directory counts as empty.
    write(&dir.join(ROOT), &authority.roots_pem(), 0o644)?;
    write(&dir.join(CHAIN), "", 0o644)?;
    write(&dir.join(CERT), &authority.cert_pem(), 0o644)?;
    write(&dir.join(KEY), &authority.key().to_pem(), 0o600)?;
    Ok(authority)
}

/// A self-made root in its last fifth gets a new life, in the directory too. `None`: not due, or plugged in by somebody
/// who renews it himself.
pub fn renew(dir: &Path, authority: &Authority, now: SystemTime) -> Result<Option<Authority>, StoreError> {
    if !authority.is_self_made() || now < authority.renew_at() {
        return Ok(None);
    }
    let renewed = authority
        .renewed(now, crate::random_serial())
        .map_err(|error| StoreError::Pki { path: dir.to_owned(), error })?;
    // Whoever reads between the two finds a certificate of the same key, which the old root vouches for.
    write(&dir.join(CERT), &renewed.cert_pem(), 0o644)?;
    write(&dir.join(ROOT), &renewed.roots_pem(), 0o644)?;
    Ok(Some(renewed))
}

fn read(path: &Path) -> Result<Option<Vec<u8>>, StoreError> {
    match std::fs::read(path) {
        Ok(bytes) => Ok(Some(bytes)),
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(StoreError::Io { path: path.to_owned(), error }),
    }
}

/// Writes beside and renames, so that nobody reads half a key.
fn write(path: &Path, text: &str, mode: u32) -> Result<(), StoreError> {
    let beside = path.with_extension("tmp");
    let done = || {
        let mut file = std::fs::OpenOptions::new().write(true).create(true).truncate(true).mode(mode).open(&beside)?;
        file.write_all(text.as_bytes())?;
        std::fs::rename(&beside, path)
    };
    done().map_err(|error| StoreError::Io { path: path.to_owned(), error })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_root_survives_a_restart() {
        let dir = tempfile::tempdir().unwrap();
        let make = || load_or_create(&dir.path().join("ca"), "td", KeyAlgorithm::EcdsaP256, SystemTime::now()).unwrap();
        assert_eq!(make().roots_pem(), make().roots_pem());
    }

    #[test]
    fn a_root_is_renewed_in_its_last_fifth_only() {
        let dir = tempfile::tempdir().unwrap();
        let now = SystemTime::now();
        let made = load_or_create(dir.path(), "td", KeyAlgorithm::EcdsaP256, now).unwrap();
        assert!(renew(dir.path(), &made, now).unwrap().is_none());
        let renewed = renew(dir.path(), &made, made.renew_at()).unwrap().unwrap();
        let read = load(dir.path()).unwrap().unwrap();
        assert_eq!((read.cert_pem(), read.roots_pem()), (renewed.cert_pem(), renewed.roots_pem()));
        assert!(read.roots_pem().contains(made.roots_pem().trim()));
    }

    #[test]
    fn broken_material_is_an_error_not_a_new_root() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join(KEY), "nonsense").unwrap();
        assert!(matches!(load(dir.path()), Err(StoreError::Pki { .. })));
        assert!(load_or_create(dir.path(), "td", KeyAlgorithm::EcdsaP256, SystemTime::now()).is_err());
    }

    #[test]
    fn kubernetes_secret_names_work() {
        let dir = tempfile::tempdir().unwrap();
        let made = load_or_create(&dir.path().join("a"), "td", KeyAlgorithm::EcdsaP256, SystemTime::now()).unwrap();
        for (name, text) in
            [("tls.key", made.key().to_pem()), ("tls.crt", made.cert_pem()), ("ca.crt", made.roots_pem())]
        {
            std::fs::write(dir.path().join(name), text).unwrap();
        }
        assert_eq!(load(dir.path()).unwrap().unwrap().roots_pem(), made.roots_pem());
    }
}
