//! Connections: TLS on both sides, HTTP/1.1, one task for each.

use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;

use anyhow::{Context as _, Result};
use bytes::Bytes;
use http::uri::{Authority, Scheme};
use http::{Request, Response, Uri};
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ClientConfig, RootCertStore, ServerConfig};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

use super::answer::{self, Body, Broken};
use super::state::{Mode, State};
use crate::sandbox::certs::Identity;
use crate::sandbox::start;

/// The server behind the proxy.
#[derive(Clone)]
pub(super) struct Upstream {
    client: Client<HttpsConnector<HttpConnector>, Full<Bytes>>,
    scheme: Scheme,
    authority: Authority,
}

impl Upstream {
    pub fn plain(address: SocketAddr) -> Self {
        Self::new(address, Scheme::HTTP, RootCertStore::empty())
    }

    /// A server with a certificate of this authority, PEM.
    pub fn secure(address: SocketAddr, authority: &str) -> Result<Self> {
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from_pem_slice(authority.as_bytes())?)?;
        Ok(Self::new(address, Scheme::HTTPS, roots))
    }

    fn new(address: SocketAddr, scheme: Scheme, roots: RootCertStore) -> Self {
        start::tls();
        let tls = ClientConfig::builder().with_root_certificates(roots).with_no_client_auth();
        let connector =
            HttpsConnectorBuilder::new().with_tls_config(tls).https_or_http().enable_http1();
        let client = Client::builder(TokioExecutor::new()).build(connector.build());
        let authority = address.to_string().parse().expect("an address is an authority");
        Self { client, scheme, authority }
    }

    pub fn speaks_kubernetes(&self) -> bool {
        self.scheme == Scheme::HTTPS
    }

    /// Sends the request on.
    pub async fn send(
        &self,
        parts: &http::request::Parts,
        body: Bytes,
    ) -> Result<Response<Incoming>> {
        let mut uri = parts.uri.clone().into_parts();
        uri.scheme = Some(self.scheme.clone());
        uri.authority = Some(self.authority.clone());
        let mut request = Request::builder()
            .method(parts.method.clone())
            .uri(Uri::from_parts(uri)?)
            .body(Full::new(body))?;
        // The header Host stays as it came: signatures of S3 are over it.
        request.headers_mut().clone_from(&parts.headers);
        Ok(self.client.request(request).await?)
    }
}

pub(super) fn acceptor(identity: &Identity) -> Result<TlsAcceptor> {
    start::tls();
    let certificate = CertificateDer::from_pem_slice(identity.certificate.as_bytes())?;
    let key = PrivateKeyDer::from_pem_slice(identity.key.as_bytes())?;
    let mut config = ServerConfig::builder()
        .with_no_client_auth()
        .with_single_cert(vec![certificate], key)
        .context("no certificate for a server")?;
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(TlsAcceptor::from(Arc::new(config)))
}

/// Takes connections, without end.
pub(super) async fn serve(
    listener: std::net::TcpListener,
    tls: Option<TlsAcceptor>,
    upstream: Upstream,
    state: Arc<State>,
) {
    let listener = TcpListener::from_std(listener).expect("a listener of this runtime");
    loop {
        let Ok((stream, _)) = listener.accept().await else { continue };
        if *state.mode.borrow() == Mode::Refusing {
            let _ = stream.set_zero_linger();
            continue;
        }
        let _ = stream.set_nodelay(true);
        let (tls, upstream, state) = (tls.clone(), upstream.clone(), state.clone());
        tokio::spawn(async move {
            let mut epochs = state.epoch.subscribe();
            epochs.borrow_and_update();
            // A frozen network does not shake hands either.
            let handshake = async {
                state.until_open().await;
                match tls {
                    Some(tls) => tls.accept(stream).await.map(|tls| Stream::Tls(Box::new(tls))),
                    None => Ok(Stream::Plain(stream)),
                }
            };
            tokio::select! {
                stream = handshake => {
                    if let Ok(stream) = stream {
                        connection(stream, upstream, state, epochs).await;
                    }
                }
                _ = epochs.changed() => {}
            }
        });
    }
}

enum Stream {
    Plain(TcpStream),
    Tls(Box<TlsStream<TcpStream>>),
}

async fn connection(
    stream: Stream,
    upstream: Upstream,
    state: Arc<State>,
    epochs: tokio::sync::watch::Receiver<u64>,
) {
    match stream {
        Stream::Plain(stream) => {
            requests(stream, upstream, state, epochs, |stream| stream).await;
        }
        Stream::Tls(stream) => {
            requests(*stream, upstream, state, epochs, |stream| stream.get_ref().0).await;
        }
    }
}

async fn requests<S>(
    stream: S,
    upstream: Upstream,
    state: Arc<State>,
    mut epochs: tokio::sync::watch::Receiver<u64>,
    tcp: impl Fn(&S) -> &TcpStream,
) where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let service = service_fn(|request: Request<Incoming>| {
        let (upstream, state) = (upstream.clone(), state.clone());
        Box::pin(async move {
            let (parts, body) = request.into_parts();
            let body = body.collect().await.map_err(|_| Broken)?.to_bytes();
            answer::answer(&upstream, &state, parts, body).await
        }) as Pin<Box<dyn Future<Output = Result<Response<Body>, Broken>> + Send>>
    });
    let mut connection = http1::Builder::new().serve_connection(TokioIo::new(stream), service);
    let reset = tokio::select! {
        // An error: the service broke it off, or the other side did.
        ended = std::future::poll_fn(|cx| connection.poll_without_shutdown(cx)) => ended.is_err(),
        _ = epochs.changed() => true,
    };
    let stream = connection.into_parts().io.into_inner();
    if reset {
        let _ = tcp(&stream).set_zero_linger();
    }
}
