//! Which web pages may open a WebSocket. Browsers let every page open one to everywhere and say only where it came
//! from; so a page of somebody else's must be refused by that.

use axum::http::{HeaderMap, header};

/// Whether a request with these headers may open a WebSocket: of the server's own pages, of pages from `allowed`, and of
/// programs, which are no browsers and send no Origin.
pub fn may_open(headers: &HeaderMap, allowed: &[String]) -> bool {
    let mut origins = headers.get_all(header::ORIGIN).iter();
    let origin = match (origins.next(), origins.next()) {
        (None, _) => return true,
        (Some(origin), None) => origin.to_str().unwrap_or_default(),
        // No browser sends two.
        (Some(_), Some(_)) => return false,
    };
    let host = headers.get(header::HOST).and_then(|host| host.to_str().ok());
    let of_own_page = origin.split_once("://").is_some_and(|(scheme, authority)| {
        (scheme == "http" || scheme == "https") && host.is_some_and(|host| host.eq_ignore_ascii_case(authority))
    });
    of_own_page || allowed.iter().any(|allowed| allowed.trim().trim_end_matches('/').eq_ignore_ascii_case(origin))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn own_pages_listed_pages_and_programs() {
        let allowed = ["https://console.example.com/".to_owned()];
        let may = |origins: &[&str]| {
            let mut headers = HeaderMap::new();
            headers.insert(header::HOST, "localhost:18443".parse().unwrap());
            for origin in origins {
                headers.append(header::ORIGIN, origin.parse().unwrap());
            }
            may_open(&headers, &allowed)
        };
        assert!(may(&[]));
        for good in ["http://localhost:18443", "https://LOCALHOST:18443", "https://console.example.com"] {
            assert!(may(&[good]), "{good}");
        }
        for bad in [
            "null",
            "",
            "http://localhost",
            "http://localhost:184430",
            "http://evil.example/localhost:18443",
            "file://localhost:18443",
            "https://console.example.com.evil.example",
            "http://console.example.com",
        ] {
            assert!(!may(&[bad]), "{bad}");
        }
        assert!(!may(&["http://localhost:18443", "http://evil.example"]));
    }
}
