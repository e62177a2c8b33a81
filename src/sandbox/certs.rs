//! Certificates: an authority per sandbox, servers and users below it. ECDSA P-256 throughout.

use std::fs;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;

use anyhow::{Context as _, Result};
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, PublicKeyData as _,
};
use time::{Duration, OffsetDateTime};

use super::der;

/// A certificate and its private key, both PEM.
#[derive(Clone, Debug)]
pub struct Identity {
    /// The certificate.
    pub certificate: String,
    /// The private key, PKCS#8.
    pub key: String,
}

impl Identity {
    /// Writes `NAME.crt` and `NAME.key` into the folder.
    ///
    /// # Errors
    /// A file cannot be written.
    pub fn write(&self, folder: &Path, name: &str) -> Result<()> {
        write_private(&folder.join(format!("{name}.crt")), &self.certificate)?;
        write_private(&folder.join(format!("{name}.key")), &self.key)
    }
}

/// A certificate authority of one sandbox: nothing outside it trusts it.
#[derive(Debug)]
pub struct Authority {
    common_name: String,
    certificate: String,
    issuer: Issuer<'static, KeyPair>,
}

impl Authority {
    /// A new authority.
    ///
    /// # Errors
    /// No key can be made.
    pub fn new(common_name: &str) -> Result<Self> {
        let key = KeyPair::generate().context("cannot make a key")?;
        let params = Self::params(common_name)?;
        let certificate = params.self_signed(&key).context("cannot sign the authority")?.pem();
        Ok(Self {
            common_name: common_name.to_owned(),
            certificate,
            issuer: Issuer::new(params, key),
        })
    }

    /// The authority that [`Authority::write`] wrote, to sign users of a sandbox that already runs.
    ///
    /// # Errors
    /// The files cannot be read, or are none.
    pub fn read(folder: &Path, name: &str, common_name: &str) -> Result<Self> {
        let read = |extension: &str| {
            let path = folder.join(format!("{name}.{extension}"));
            fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))
        };
        let key = KeyPair::from_pem(&read("key")?).context("the authority's key is broken")?;
        // A certificate is bound to its issuer by name and key alone, so the same parameters do.
        let issuer = Issuer::new(Self::params(common_name)?, key);
        Ok(Self { common_name: common_name.to_owned(), certificate: read("crt")?, issuer })
    }

    fn params(common_name: &str) -> Result<CertificateParams> {
        let mut params = base(common_name, Vec::new())?;
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        Ok(params)
    }

    /// The authority's own certificate, PEM.
    pub fn certificate(&self) -> &str {
        &self.certificate
    }

    /// Writes the authority's certificate and key into the folder.
    ///
    /// # Errors
    /// A file cannot be written.
    pub fn write(&self, folder: &Path, name: &str) -> Result<()> {
        let key = self.issuer.key().serialize_pem();
        Identity { certificate: self.certificate.clone(), key }.write(folder, name)
    }

    /// A certificate for a server that is reached under these names and addresses. It also serves
    /// as a client's, for servers that talk to each other (etcd's peers).
    ///
    /// # Errors
    /// A name is none, or no key can be made.
    pub fn server(&self, common_name: &str, names: &[&str]) -> Result<Identity> {
        let names = names.iter().map(|&name| name.to_owned()).collect();
        let mut params = base(common_name, names)?;
        params.extended_key_usages =
            vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        self.sign(params)
    }

    /// A certificate for a client: the API server takes the common name as the user and each
    /// organization as a group.
    ///
    /// # Errors
    /// No key can be made.
    pub fn client(&self, user: &str, groups: &[&str]) -> Result<Identity> {
        let key = KeyPair::generate().context("cannot make a key")?;
        let certificate = der::client(
            &self.common_name,
            self.issuer.key(),
            &key.subject_public_key_info(),
            user,
            groups,
            validity(),
        )?;
        Ok(Identity { certificate, key: key.serialize_pem() })
    }

    fn sign(&self, mut params: CertificateParams) -> Result<Identity> {
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.use_authority_key_identifier_extension = true;
        let key = KeyPair::generate().context("cannot make a key")?;
        let certificate = params.signed_by(&key, &self.issuer).context("cannot sign")?;
        Ok(Identity { certificate: certificate.pem(), key: key.serialize_pem() })
    }
}

/// A key pair alone, PEM: the private and the public part. It signs service accounts' tokens.
///
/// # Errors
/// No key can be made.
pub fn key_pair() -> Result<(String, String)> {
    let key = KeyPair::generate().context("cannot make a key")?;
    Ok((key.serialize_pem(), key.public_key_pem()))
}

/// Writes a file that only its owner may read.
///
/// # Errors
/// The file cannot be written.
pub fn write_private(path: &Path, content: &str) -> Result<()> {
    use std::io::Write as _;
    let mut options = fs::OpenOptions::new();
    let file = options.write(true).create(true).truncate(true).mode(0o600).open(path);
    file.and_then(|mut file| file.write_all(content.as_bytes()))
        .with_context(|| format!("cannot write {}", path.display()))
}

fn base(common_name: &str, names: Vec<String>) -> Result<CertificateParams> {
    let mut params = CertificateParams::new(names).context("not a name for a certificate")?;
    let mut name = rcgen::DistinguishedName::new();
    name.push(DnType::CommonName, common_name);
    params.distinguished_name = name;
    (params.not_before, params.not_after) = validity();
    Ok(params)
}

/// From an hour ago, for clocks that a test or a suspended laptop moved, for ten years.
fn validity() -> (OffsetDateTime, OffsetDateTime) {
    let now = OffsetDateTime::now_utc();
    (now - Duration::hours(1), now + Duration::days(3650))
}
