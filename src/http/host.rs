//! Protection against DNS rebinding: a web page can point its own name to 127.0.0.1 and then read
//! what a server there answers.
//!
//! A worker that serves only its own machine answers to `localhost`, to addresses and to the name
//! of `--http`, and to no other name. A worker that serves the network answers to every name, since
//! everybody who can reach it may read its pages anyway.

use axum::Router;
use axum::extract::Request;
use axum::http::{HeaderMap, StatusCode, header};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse as _, Response};
use std::net::IpAddr;

const REFUSAL: &str = "the header `Host` has a name that this worker does not answer to: it serves its own machine, so it answers to \
                       localhost, to addresses and to the name of --http\n";

/// Refuses requests to other names if this address is reachable from this machine only.
pub fn guard_host(router: Router, address: &str) -> Router {
    let own = name_of(address).to_owned();
    let is_local = own == "localhost" || own.parse::<IpAddr>().is_ok_and(|address| address.is_loopback());
    if !is_local {
        return router;
    }
    router.layer(middleware::from_fn(move |request: Request, next: Next| {
        let is_ours = is_ours(request.headers(), &own);
        async move { if is_ours { next.run(request).await } else { refusal() } }
    }))
}

fn refusal() -> Response {
    (StatusCode::MISDIRECTED_REQUEST, REFUSAL).into_response()
}

/// A request without the header does not come from a browser.
fn is_ours(headers: &HeaderMap, own: &str) -> bool {
    headers.get_all(header::HOST).iter().all(|host| {
        let Ok(host) = host.to_str() else { return false };
        let name = name_of(host.trim());
        let name = name.strip_suffix('.').unwrap_or(name);
        let is_localhost = name.eq_ignore_ascii_case("localhost");
        is_localhost || name.eq_ignore_ascii_case(own) || name.parse::<IpAddr>().is_ok()
    })
}

/// `host` of `host:port`, without the brackets of an IPv6 address.
fn name_of(address: &str) -> &str {
    if let Some((six, _)) = address.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        return six;
    }
    address.rsplit_once(':').map_or(address, |(name, _)| name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_that_is_not_this_machines_is_not_answered_to() {
        let answers = |host: &str| {
            let mut headers = HeaderMap::new();
            if let Ok(host) = host.parse() {
                headers.insert(header::HOST, host);
            }
            is_ours(&headers, "127.0.0.1")
        };
        for ours in
            ["localhost", "LOCALHOST:9464", "localhost.:1", "127.0.0.1:9464", "127.0.0.1", "[::1]:9464", "10.0.0.1:80"]
        {
            assert!(answers(ours), "{ours}");
        }
        for other in ["evil.example", "evil.example:9464", "localhost.evil.example", "127.0.0.1.evil.example", ""] {
            assert!(!answers(other), "{other}");
        }
        assert!(is_ours(&HeaderMap::new(), "127.0.0.1"), "no browser");
    }
}
