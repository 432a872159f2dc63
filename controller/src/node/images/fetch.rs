//! Getting an image over HTTP: only from addresses that the guard allows, and with a deadline for everything.
//!
//! Addresses are checked where they are connected to: names are resolved here, and what the guard refuses is not given
//! to the connector, so a name that resolves differently a moment later gains nothing. Redirects are followed by hand,
//! and each is checked as the first was; one from https to http is followed too, since what comes is judged by its
//! checksum. No proxy is used, since it would connect in our place.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use futures::{FutureExt, stream};
use reqwest::dns::{Addrs, Name, Resolve, Resolving};
use reqwest::{Client, Response, StatusCode, Url, header, redirect};

use super::failure::Failure;
use super::file::{File, IDLE};
use super::guard::{Guard, Refused};

/// How long a connection may take to come about.
const CONNECT: Duration = Duration::from_secs(10);
/// How many redirects are followed.
const REDIRECTS: usize = 5;

/// Fetches images.
#[derive(Clone)]
pub struct Fetcher {
    client: Client,
    guard: Arc<Guard>,
}

impl Fetcher {
    /// A fetcher.
    ///
    /// # Errors
    /// If the system's certificates cannot be used.
    pub fn new(guard: Guard) -> Result<Self, reqwest::Error> {
        // Whoever is first decides; there is only one provider.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let guard = Arc::new(guard);
        let client = Client::builder()
            .user_agent(concat!("kvmoor/", env!("CARGO_PKG_VERSION")))
            .no_proxy()
            .redirect(redirect::Policy::none())
            .connect_timeout(CONNECT)
            .read_timeout(IDLE)
            .pool_max_idle_per_host(0)
            .http1_only()
            .dns_resolver(Resolver(Arc::clone(&guard)))
            .build()?;
        Ok(Self { client, guard })
    }

    /// Begins to fetch a file.
    pub async fn open(&self, url: &str) -> Result<File, Failure> {
        let mut url = Url::parse(url).map_err(|error| Failure::download(format!("the URL is none: {error}")))?;
        for _ in 0..=REDIRECTS {
            self.check(&url)?;
            let host = url.host_str().unwrap_or_default().to_owned();
            let request = self.client.get(url.clone()).header(header::ACCEPT_ENCODING, "identity");
            let response = request.send().await.map_err(|error| explain(&host, &error))?;
            let status = response.status();
            if status == StatusCode::OK {
                return Ok(file(host, response));
            }
            if !status.is_redirection() {
                return Err(Failure::download(format!("{host} answers {status}")));
            }
            let location = response.headers().get(header::LOCATION).and_then(|value| value.to_str().ok());
            let target = location.and_then(|location| url.join(location).ok());
            url = target
                .ok_or_else(|| Failure::download(format!("{host} answers {status} without a usable Location")))?;
        }
        Err(Failure::download(format!("more than {REDIRECTS} redirects")))
    }

    /// Checks what needs no name to be resolved. The connector takes an address as it stands in the URL.
    fn check(&self, url: &Url) -> Result<(), Failure> {
        if !matches!(url.scheme(), "http" | "https") {
            return Err(Failure::refused(format!("{} URLs are not fetched from", url.scheme())));
        }
        let host = url.host_str().unwrap_or_default();
        let literal = host.trim_start_matches('[').trim_end_matches(']').parse::<IpAddr>();
        match literal {
            Ok(address) => self.guard.check(address).map_err(|refused| Failure::refused(refused.to_string())),
            Err(_) => Ok(()),
        }
    }
}

/// What a server gives.
fn file(host: String, response: Response) -> File {
    let next = async |(host, mut response): (String, Response)| match response.chunk().await {
        Ok(bytes) => Ok(bytes.map(|bytes| (bytes, (host, response)))),
        Err(error) => Err(explain(&host, &error)),
    };
    File::new(response.content_length(), stream::try_unfold((host, response), next))
}

/// The error in words that do not change from attempt to attempt. Nothing of the URL but its host is told: there may be
/// a password in the rest.
fn explain(host: &str, error: &reqwest::Error) -> Failure {
    let mut cause: &dyn std::error::Error = error;
    loop {
        if let Some(refused) = cause.downcast_ref::<Refused>() {
            return Failure::refused(refused.to_string());
        }
        match cause.source() {
            Some(source) => cause = source,
            None => break,
        }
    }
    let what = if error.is_timeout() && error.is_connect() {
        format!("no connection within {} s", CONNECT.as_secs())
    } else if error.is_timeout() {
        format!("nothing came for {} s", IDLE.as_secs())
    } else {
        cause.to_string()
    };
    Failure::download(format!("{host}: {what}"))
}

/// Resolves names to the addresses that the guard allows.
struct Resolver(Arc<Guard>);

impl Resolve for Resolver {
    fn resolve(&self, name: Name) -> Resolving {
        let guard = Arc::clone(&self.0);
        async move {
            // The port is the connector's to fill in.
            let found: Vec<SocketAddr> = tokio::net::lookup_host((name.as_str(), 0)).await?.collect();
            let (allowed, refused) = sort_out(&guard, found);
            match refused {
                Some(refused) if allowed.is_empty() => Err(refused.into()),
                _ => Ok(Box::new(allowed.into_iter()) as Addrs),
            }
        }
        .boxed()
    }
}

/// The addresses that are allowed, and the first refusal.
fn sort_out(guard: &Guard, found: Vec<SocketAddr>) -> (Vec<SocketAddr>, Option<Refused>) {
    let mut first = None;
    let allowed = found.into_iter().filter(|address| match guard.check(address.ip()) {
        Ok(()) => true,
        Err(refused) => {
            first.get_or_insert(refused);
            false
        }
    });
    (allowed.collect(), first)
}

#[cfg(test)]
mod tests {
    use super::super::failure::Reason;
    use super::*;

    fn fetcher(allowed: &[&str]) -> Fetcher {
        let nets = allowed.iter().map(|text| text.parse().unwrap()).collect();
        Fetcher::new(Guard::new(nets, Vec::new())).unwrap()
    }

    /// A server that gives one answer to each connection.
    async fn server(answer: String) -> SocketAddr {
        use tokio::io::{AsyncReadExt, AsyncWriteExt};
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                let mut request = [0; 1024];
                let _ = stream.read(&mut request).await;
                let _ = stream.write_all(answer.as_bytes()).await;
            }
        });
        address
    }

    async fn failure(fetcher: &Fetcher, url: &str) -> Failure {
        match fetcher.open(url).await {
            Ok(_) => panic!("{url} was fetched"),
            Err(failure) => failure,
        }
    }

    #[tokio::test]
    async fn names_and_addresses_and_redirects_are_checked() {
        let address = server("HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nhi".into()).await;
        let port = address.port();
        let strict = fetcher(&[]);
        for host in ["127.0.0.1", "localhost", "0x7f.1", "2130706433", "[::ffff:127.0.0.1]", "0"] {
            let failure = failure(&strict, &format!("http://{host}:{port}/")).await;
            assert_eq!(failure.reason, Reason::SourceRefused, "{host}: {}", failure.message);
        }
        assert_eq!(failure(&strict, "file:///etc/passwd").await.reason, Reason::SourceRefused);
        let open = fetcher(&["127.0.0.1/32"]);
        let mut download = open.open(&format!("http://127.0.0.1:{port}/")).await.unwrap();
        assert_eq!(download.length, Some(2));
        assert_eq!(download.next().await.unwrap().unwrap(), "hi");
        // From an allowed address to one that is not.
        for target in ["http://169.254.169.254/latest", "http://127.0.0.2/", "ftp://127.0.0.1/x", "http://[::1]/"] {
            let from = server(format!("HTTP/1.1 302 Found\r\nlocation: {target}\r\ncontent-length: 0\r\n\r\n")).await;
            let failure = failure(&open, &format!("http://{from}/")).await;
            assert_eq!(failure.reason, Reason::SourceRefused, "{target}: {}", failure.message);
        }
        let to_itself = server("HTTP/1.1 302 Found\r\nlocation: /again\r\ncontent-length: 0\r\n\r\n".into()).await;
        let failure = failure(&open, &format!("http://{to_itself}/")).await;
        assert_eq!((failure.reason, failure.message.as_str()), (Reason::DownloadFailed, "more than 5 redirects"));
    }

    #[tokio::test]
    async fn failures_say_the_host_and_not_the_rest_of_the_url() {
        let open = fetcher(&["127.0.0.1/32"]);
        let address = server("HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\n\r\n".into()).await;
        let failure = failure(&open, &format!("http://me:password@{address}/x?token=secret")).await;
        assert_eq!(failure.message, "127.0.0.1 answers 404 Not Found");
    }
}
