//! Who calls: only the API server's service account, proved by a token for our audience.
//!
//! The Kubernetes API is asked about a token once a minute at most, so that a token that was revoked is good for no
//! longer than that, and a console stays usable while nobody can be asked.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use http::HeaderMap;
use http::header::AUTHORIZATION;
use k8s_openapi::api::authentication::v1::{TokenReview, TokenReviewSpec};
use kube::api::PostParams;
use kube::{Api, Client};
use kvmoor_crds::agent::AUDIENCE;
use sha2::{Digest, Sha256};
use tokio::sync::Semaphore;

use super::answer::Refusal;

/// For how long an answer about a token serves.
const SERVES: Duration = Duration::from_secs(60);
/// Tokens remembered at most. The replicas of the API server have one each.
const REMEMBERED: usize = 256;
/// Questions at a time: anybody who reaches the port can send tokens.
const AT_ONCE: usize = 4;
/// How long the Kubernetes API may take.
const DEADLINE: Duration = Duration::from_secs(5);
/// A token is not longer than this.
const LONGEST: usize = 8192;

/// What is known of a token.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Verdict {
    /// The API server's.
    Welcome,
    /// Good, but somebody else's.
    SomebodyElse,
    /// Not good here.
    Bad,
}

/// Those who may call.
pub struct Callers {
    reviews: Api<TokenReview>,
    account: String,
    known: Mutex<HashMap<[u8; 32], (Instant, Verdict)>>,
    questions: Semaphore,
}

impl Callers {
    /// The API server of that installation.
    pub fn new(client: Client, system_namespace: &str) -> Self {
        Self {
            reviews: Api::all(client),
            account: format!("system:serviceaccount:{system_namespace}:kvmoor-api-server"),
            known: Mutex::default(),
            questions: Semaphore::new(AT_ONCE),
        }
    }

    /// Lets nobody else in.
    pub async fn admit(&self, headers: &HeaderMap) -> Result<(), Refusal> {
        let token = bearer(headers).ok_or(Refusal::unauthorized("Authorization: Bearer <token> is required"))?;
        let hash: [u8; 32] = Sha256::digest(token.as_bytes()).into();
        let verdict = match self.recall(&hash) {
            Some(verdict) => verdict,
            None => self.ask(hash, token).await?,
        };
        match verdict {
            Verdict::Welcome => Ok(()),
            Verdict::SomebodyElse => Err(Refusal::forbidden("this account has no business here")),
            Verdict::Bad => Err(Refusal::unauthorized("the token is not good here")),
        }
    }

    fn recall(&self, hash: &[u8; 32]) -> Option<Verdict> {
        let known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        known.get(hash).filter(|(asked, _)| asked.elapsed() < SERVES).map(|(_, verdict)| *verdict)
    }

    async fn ask(&self, hash: [u8; 32], token: &str) -> Result<Verdict, Refusal> {
        let asked = Instant::now();
        let verdict = match tokio::time::timeout(DEADLINE, self.review(token)).await {
            Ok(Ok(verdict)) => verdict,
            Ok(Err(error)) => {
                tracing::warn!(%error, "cannot have a token reviewed");
                return Err(Refusal::unavailable("the Kubernetes API does not say whose the token is"));
            }
            Err(_) => return Err(Refusal::unavailable("the Kubernetes API does not say in time whose the token is")),
        };
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if known.len() >= REMEMBERED {
            known.retain(|_, (asked, _)| asked.elapsed() < SERVES);
        }
        if known.len() < REMEMBERED {
            known.insert(hash, (asked, verdict));
        }
        Ok(verdict)
    }

    async fn review(&self, token: &str) -> Result<Verdict, kube::Error> {
        let _permit = self.questions.acquire().await;
        let spec = TokenReviewSpec { audiences: Some(vec![AUDIENCE.to_owned()]), token: Some(token.to_owned()) };
        let review = TokenReview { spec, ..TokenReview::default() };
        let answer = self.reviews.create(&PostParams::default(), &review).await?;
        Ok(judge(&answer, &self.account))
    }
}

fn bearer(headers: &HeaderMap) -> Option<&str> {
    let (scheme, token) = headers.get(AUTHORIZATION)?.to_str().ok()?.split_once(' ')?;
    (scheme.eq_ignore_ascii_case("bearer") && token.len() <= LONGEST).then(|| token.trim())
}

fn judge(review: &TokenReview, account: &str) -> Verdict {
    let Some(status) = &review.status else { return Verdict::Bad };
    // An API server that knows nothing of audiences would leave them out.
    let for_us = status.audiences.iter().flatten().any(|audience| audience == AUDIENCE);
    if status.authenticated != Some(true) || !for_us {
        return Verdict::Bad;
    }
    match status.user.as_ref().and_then(|user| user.username.as_deref()) {
        Some(name) if name == account => Verdict::Welcome,
        _ => Verdict::SomebodyElse,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn verdict(status: serde_json::Value) -> Verdict {
        let review = serde_json::json!({ "spec": {}, "status": status });
        judge(&serde_json::from_value(review).unwrap(), "system:serviceaccount:s:kvmoor-api-server")
    }

    #[test]
    fn only_the_api_servers_token_for_our_audience_is_good() {
        let user = |name: &str| serde_json::json!({ "username": name });
        let api = user("system:serviceaccount:s:kvmoor-api-server");
        let ours = serde_json::json!([AUDIENCE]);
        let status = |authenticated: bool, user: &serde_json::Value, audiences: &serde_json::Value| {
            verdict(serde_json::json!({ "authenticated": authenticated, "user": user, "audiences": audiences }))
        };
        assert_eq!(status(true, &api, &ours), Verdict::Welcome);
        assert_eq!(status(false, &api, &ours), Verdict::Bad);
        assert_eq!(status(true, &api, &serde_json::json!(["https://kubernetes.default.svc"])), Verdict::Bad);
        assert_eq!(status(true, &api, &serde_json::json!([])), Verdict::Bad);
        let other = user("system:serviceaccount:t:kvmoor-api-server");
        assert_eq!(status(true, &other, &ours), Verdict::SomebodyElse);
    }

    #[test]
    fn tokens_come_as_bearers() {
        let headers = |text: &str| HeaderMap::from_iter([(AUTHORIZATION, text.parse().unwrap())]);
        assert_eq!(bearer(&headers("bearer abc")), Some("abc"));
        assert_eq!(bearer(&headers("Basic abc")), None);
        assert_eq!(bearer(&HeaderMap::new()), None);
    }
}
