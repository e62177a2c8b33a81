//! The components of the control plane: what each is told. Every one listens on loopback only.

use std::ffi::OsString;
use std::hash::{BuildHasher as _, Hasher as _, RandomState};
use std::io;
use std::net::{Ipv4Addr, TcpListener};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};

use super::binaries::{Binaries, Program};
use super::certs::{Authority, key_pair, write_private};
use super::kubeconfig::{Credential, Endpoint};
use super::process::{Spec, flag};

/// What the authority of users and servers is called.
pub(super) const AUTHORITY: &str = "reprieve-sandbox";
/// The user that kwok is.
pub(super) const KWOK_USER: &str = "kwok";

/// What the audit log records.
const AUDIT_POLICY: &str = include_str!("audit-policy.yaml");
/// What kwok does with nodes and pods.
const STAGES: &str = include_str!("stages.yaml");

/// The files and folders of a sandbox.
#[derive(Clone, Debug)]
pub(super) struct Layout {
    pub root: PathBuf,
}

impl Layout {
    pub fn pki(&self) -> PathBuf {
        self.root.join("pki")
    }
    pub fn kubeconfigs(&self) -> PathBuf {
        self.root.join("kubeconfigs")
    }
    pub fn kubeconfig(&self, name: &str) -> PathBuf {
        self.kubeconfigs().join(format!("{name}.kubeconfig"))
    }
    pub fn admin(&self) -> PathBuf {
        self.kubeconfig("admin")
    }
    pub fn operator(&self) -> PathBuf {
        self.kubeconfig("operator")
    }
    pub fn logs(&self) -> PathBuf {
        self.root.join("logs")
    }
    pub fn store(&self) -> PathBuf {
        self.root.join("store")
    }
    pub fn audit_log(&self) -> PathBuf {
        self.root.join("audit").join("audit.log")
    }
    pub fn audit_policy(&self) -> PathBuf {
        self.root.join("audit").join("policy.yaml")
    }
    pub fn stages(&self) -> PathBuf {
        self.root.join("stages.yaml")
    }
    pub fn admission(&self) -> PathBuf {
        self.root.join("admission")
    }
    pub fn admission_configuration(&self) -> PathBuf {
        self.admission().join("configuration.json")
    }

    /// `NAME`, or `NAME-2` and so on: each start of another one has a log of its own.
    pub fn free_name(&self, name: &str) -> String {
        let names = (1_u32..)
            .map(|n| if n == 1 { name.to_owned() } else { format!("{name}-{n}") })
            .find(|name| !self.logs().join(format!("{name}.log")).exists());
        names.expect("there are enough numbers")
    }

    /// Makes the folders and the files that don't depend on ports.
    pub fn create(&self) -> Result<()> {
        for folder in
            [self.pki(), self.kubeconfigs(), self.logs(), self.store(), self.root.join("audit")]
        {
            std::fs::create_dir_all(&folder)
                .with_context(|| format!("cannot create {}", folder.display()))?;
        }
        write_private(&self.audit_policy(), AUDIT_POLICY)?;
        write_private(&self.stages(), STAGES)
    }
}

/// The ports of one start, free a moment ago.
#[derive(Clone, Copy, Debug)]
pub(super) struct Ports {
    pub etcd: u16,
    pub etcd_peer: u16,
    pub api_server: u16,
}

impl Ports {
    /// Ports that are free now. All are held until all are known, so that they differ.
    pub fn free() -> Result<Self> {
        let held = [listener()?, listener()?, listener()?];
        let port = |i: usize| -> io::Result<u16> { Ok(held[i].local_addr()?.port()) };
        Ok(Self { etcd: port(0)?, etcd_peer: port(1)?, api_server: port(2)? })
    }
}

/// Holds a free port of loopback. Below those that the kernel gives to outgoing connections, if
/// there is one: a component that was killed must find its port free when it is started again.
pub(super) fn listener() -> io::Result<TcpListener> {
    let bind = |port: u16| TcpListener::bind((Ipv4Addr::LOCALHOST, port));
    let random = || RandomState::new().build_hasher().finish();
    let below = (0..100).find_map(|_| bind(20_000 + (random() % 12_000) as u16).ok());
    below.map_or_else(|| bind(0), Ok)
}

/// The keys and certificates of the components; gives the authority that signs users.
pub(super) fn write_pki(layout: &Layout) -> Result<Authority> {
    let pki = layout.pki();
    let authority = Authority::new(AUTHORITY)?;
    authority.write(&pki, "ca")?;
    let names = [
        "kubernetes",
        "kubernetes.default",
        "kubernetes.default.svc",
        "kubernetes.default.svc.cluster.local",
        "localhost",
        "127.0.0.1",
        "10.0.0.1",
    ];
    authority.server("kube-apiserver", &names)?.write(&pki, "apiserver")?;
    // An authority of its own: a user of the cluster must not be one of etcd. And an API server
    // that meets the etcd of another sandbox, on a port that changed hands, is turned away.
    let etcd = Authority::new("reprieve-sandbox-etcd")?;
    etcd.write(&pki, "etcd-ca")?;
    etcd.server("etcd", &["localhost", "127.0.0.1"])?.write(&pki, "etcd")?;
    etcd.client("kube-apiserver", &[])?.write(&pki, "etcd-client")?;
    let (private, public) = key_pair()?;
    write_private(&pki.join("service-accounts.key"), &private)?;
    write_private(&pki.join("service-accounts.pub"), &public)?;
    Ok(authority)
}

/// The kubeconfigs of the administrator and the components, each with a user of its own.
pub(super) fn write_kubeconfigs(
    layout: &Layout,
    authority: &Authority,
    endpoint: &Endpoint,
) -> Result<()> {
    let users: [(&str, &str, &[&str]); 4] = [
        ("admin", "admin", &["system:masters"]),
        ("kube-controller-manager", "system:kube-controller-manager", &[]),
        ("kube-scheduler", "system:kube-scheduler", &[]),
        ("kwok", KWOK_USER, &[]),
    ];
    for (file, user, groups) in users {
        let identity = authority.client(user, groups)?;
        endpoint.write(&layout.kubeconfig(file), user, &Credential::Certificate(&identity))?;
    }
    Ok(())
}

/// How to start a component with these ports. kubectl is none.
pub(super) fn spec(program: Program, binaries: &Binaries, layout: &Layout, ports: Ports) -> Spec {
    let args = match program {
        Program::Etcd => etcd(layout, ports),
        Program::ApiServer => api_server(layout, ports),
        Program::ControllerManager => controller_manager(layout),
        Program::Scheduler => scheduler(layout),
        Program::Kwok => kwok(layout),
        Program::Kubectl => Vec::new(),
    };
    Spec { name: program.name().to_owned(), program: binaries.path(program), args }
}

fn path(name: &str, folder: &Path, file: &str) -> OsString {
    flag(name, folder.join(file))
}

fn etcd(layout: &Layout, ports: Ports) -> Vec<OsString> {
    let pki = layout.pki();
    let client = format!("https://127.0.0.1:{}", ports.etcd);
    let peer = format!("https://127.0.0.1:{}", ports.etcd_peer);
    vec![
        path("data-dir", &layout.root, "etcd"),
        flag("name", "sandbox"),
        flag("listen-client-urls", &client),
        flag("advertise-client-urls", &client),
        flag("listen-peer-urls", &peer),
        flag("initial-advertise-peer-urls", &peer),
        flag("initial-cluster", format!("sandbox={peer}")),
        path("cert-file", &pki, "etcd.crt"),
        path("key-file", &pki, "etcd.key"),
        path("trusted-ca-file", &pki, "etcd-ca.crt"),
        flag("client-cert-auth", "true"),
        path("peer-cert-file", &pki, "etcd.crt"),
        path("peer-key-file", &pki, "etcd.key"),
        path("peer-trusted-ca-file", &pki, "etcd-ca.crt"),
        flag("peer-client-cert-auth", "true"),
        // The machine may crash and take the sandbox with it: nobody will miss it.
        flag("unsafe-no-fsync", "true"),
        flag("quota-backend-bytes", (4_i64 << 30).to_string()),
        flag("log-level", "warn"),
    ]
}

fn api_server(layout: &Layout, ports: Ports) -> Vec<OsString> {
    let pki = layout.pki();
    let mut args = vec![
        flag("bind-address", "127.0.0.1"),
        flag("advertise-address", "127.0.0.1"),
        flag("secure-port", ports.api_server.to_string()),
        // Loopback is no valid endpoint of the service `kubernetes`, and nothing here needs it.
        flag("endpoint-reconciler-type", "none"),
        flag("etcd-servers", format!("https://127.0.0.1:{}", ports.etcd)),
        path("etcd-cafile", &pki, "etcd-ca.crt"),
        path("etcd-certfile", &pki, "etcd-client.crt"),
        path("etcd-keyfile", &pki, "etcd-client.key"),
        path("tls-cert-file", &pki, "apiserver.crt"),
        path("tls-private-key-file", &pki, "apiserver.key"),
        path("client-ca-file", &pki, "ca.crt"),
        flag("cert-dir", &pki),
        flag("authorization-mode", "Node,RBAC"),
        flag("service-account-issuer", "https://kubernetes.default.svc.cluster.local"),
        path("service-account-signing-key-file", &pki, "service-accounts.key"),
        path("service-account-key-file", &pki, "service-accounts.pub"),
        // The default /24 runs out at 254 services.
        flag("service-cluster-ip-range", "10.0.0.0/16"),
        flag("allow-privileged", "true"),
        flag("max-requests-inflight", "3000"),
        flag("max-mutating-requests-inflight", "1500"),
        flag("audit-policy-file", layout.audit_policy()),
        flag("audit-log-path", layout.audit_log()),
        // One file, never rotated: tests read it whole.
        flag("audit-log-maxsize", "0"),
        flag("profiling", "false"),
    ];
    // Only where there is one: API servers before 1.37 don't know it.
    if layout.admission_configuration().is_file() {
        args.push(admission(layout));
    }
    args
}

/// Tells the API server where its admission policies lie.
pub(super) fn admission(layout: &Layout) -> OsString {
    flag("admission-control-config-file", layout.admission_configuration())
}

fn controller_manager(layout: &Layout) -> Vec<OsString> {
    let pki = layout.pki();
    vec![
        flag("kubeconfig", layout.kubeconfig("kube-controller-manager")),
        // Each controller is its own service account, as in a real cluster: what the guard lets
        // the garbage collector and the namespace controller do is then tested, not assumed.
        flag("use-service-account-credentials", "true"),
        path("service-account-private-key-file", &pki, "service-accounts.key"),
        path("root-ca-file", &pki, "ca.crt"),
        // No server: nothing asks it.
        flag("secure-port", "0"),
        flag("bind-address", "127.0.0.1"),
        // There is one, and one that lost its lease to a suspended laptop or a paused API server
        // would end, with nobody to start it again.
        flag("leader-elect", "false"),
        // Hundreds of sites are deleted and restored at once; the defaults take minutes.
        flag("concurrent-namespace-syncs", "50"),
        flag("kube-api-qps", "2000"),
        flag("kube-api-burst", "4000"),
    ]
}

fn scheduler(layout: &Layout) -> Vec<OsString> {
    vec![
        flag("kubeconfig", layout.kubeconfig("kube-scheduler")),
        flag("secure-port", "0"),
        flag("bind-address", "127.0.0.1"),
        flag("leader-elect", "false"),
        flag("kube-api-qps", "1000"),
        flag("kube-api-burst", "2000"),
    ]
}

fn kwok(layout: &Layout) -> Vec<OsString> {
    vec![
        flag("kubeconfig", layout.kubeconfig("kwok")),
        flag("config", layout.stages()),
        flag("manage-all-nodes", "true"),
        // Without leases the node lifecycle controller calls the nodes dead after 40 s. Short ones,
        // because each kwok is another holder: one that was killed and started again does nothing
        // until the leases of the former one end.
        flag("node-lease-duration-seconds", "10"),
        flag("cidr", "10.244.0.0/16"),
        flag("node-ip", "10.128.0.1"),
    ]
}
