//! An issuer's public keys, asked of the issuer itself (`OpenID` Connect Discovery 1.0,
//! section 4): its configuration names where its JWK set is.

use std::sync::Arc;
use std::time::Duration;

use http_body_util::{BodyExt, Empty, Limited};
use hyper::body::Bytes;
use hyper::header::{HOST, HeaderValue};
use hyper::{Request, StatusCode, Uri};
use hyper_util::rt::TokioIo;
use rustls::pki_types::ServerName;
use serde::Deserialize;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use crate::vault::line::tls::outer_client_config;

/// Most bytes of one answer.
const LIMIT: usize = 256 * 1024;
/// How long one answer of an issuer may take, from looking up its name to the last byte.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(10);

/// Why an issuer's keys could not be had.
#[derive(Debug, thiserror::Error)]
#[error("{url}: {why}")]
pub struct IssuerError {
    url: String,
    why: String,
}

/// The part of an issuer's configuration that is needed.
#[derive(Deserialize)]
struct Configuration {
    issuer: String,
    jwks_uri: String,
}

/// The JWK set of `issuer`, as text; by https only, from where its certificate leads,
/// and without following anybody elsewhere.
pub async fn fetch_keys(issuer: &str) -> Result<String, IssuerError> {
    let url = format!("{}/.well-known/openid-configuration", issuer.trim_end_matches('/'));
    let bad = |why: String| IssuerError { url: url.clone(), why };
    let text = get(&url).await?;
    let found: Configuration =
        serde_json::from_str(&text).map_err(|error| bad(format!("no configuration: {error}")))?;
    // Section 4.3: else anybody could be configured as somebody else.
    if found.issuer != issuer {
        return Err(bad(format!("it calls itself {}", found.issuer)));
    }
    get(&found.jwks_uri).await
}

async fn get(url: &str) -> Result<String, IssuerError> {
    let answer = tokio::time::timeout(ANSWER_TIMEOUT, try_to_get(url)).await;
    let answer = answer.unwrap_or_else(|_| Err("no answer in time".into()));
    answer.map_err(|why| IssuerError { url: url.to_owned(), why: why.to_string() })
}

type Trouble = Box<dyn std::error::Error + Send + Sync>;

async fn try_to_get(url: &str) -> Result<String, Trouble> {
    let uri: Uri = url.parse()?;
    if uri.scheme_str() != Some("https") {
        return Err("it is no https address".into());
    }
    let authority = uri.authority().ok_or("it has no host")?;
    let host = authority.host().trim_start_matches('[').trim_end_matches(']');
    let socket = TcpStream::connect((host, authority.port_u16().unwrap_or(443))).await?;
    let config = outer_client_config()?;
    let name = ServerName::try_from(host.to_owned())?;
    let stream = TlsConnector::from(Arc::clone(&config)).connect(name, socket).await?;
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
    let path = uri.path_and_query().map_or("/", |path| path.as_str());
    let request = Request::get(path)
        .header(HOST, HeaderValue::from_str(authority.as_str())?)
        .body(Empty::<Bytes>::new())?;
    // It works while something is asked of it. How it ends says nothing: whether the
    // answer is whole, its length tells.
    let working = tokio::spawn(connection);
    let asked = async {
        let response = sender.send_request(request).await?;
        if response.status() != StatusCode::OK {
            return Err::<_, Trouble>(format!("it answers {}", response.status()).into());
        }
        Ok(Limited::new(response.into_body(), LIMIT).collect().await?.to_bytes())
    };
    let bytes = asked.await;
    working.abort();
    let bytes = bytes?;
    Ok(String::from_utf8(bytes.to_vec())?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn what_is_no_https_address_is_not_asked() {
        for bad in ["http://id.example.org", "https://", "id.example.org", "file:///etc/passwd"] {
            let error = fetch_keys(bad).await.err().unwrap();
            assert!(error.to_string().starts_with(bad.trim_end_matches('/')), "{error}");
        }
    }
}
