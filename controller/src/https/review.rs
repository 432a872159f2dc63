//! Whose a caller's token is, by the word of the Kubernetes API.
//!
//! The Kubernetes API is asked about a token once a minute at most, so that a token that was revoked is good for no
//! longer than that, and those who are known are served while nobody can be asked.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use http::HeaderMap;
use http::header::AUTHORIZATION;
use k8s_openapi::api::authentication::v1::{TokenReview, TokenReviewSpec, UserInfo};
use kube::api::PostParams;
use kube::{Api, Client};
use sha2::{Digest, Sha256};
use tokio::sync::Semaphore;

use super::answer::Refusal;

/// For how long an answer about a token serves.
const SERVES: Duration = Duration::from_secs(60);
/// Tokens remembered at most.
const REMEMBERED: usize = 4096;
/// Questions at a time: anybody who reaches the port can send tokens.
const AT_ONCE: usize = 4;
/// How long the Kubernetes API may take.
const DEADLINE: Duration = Duration::from_secs(5);
/// A token is not longer than this.
const LONGEST: usize = 8192;

/// What is known of a token.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict<T> {
    /// Good, and of somebody who may call.
    Welcome(T),
    /// Good, but somebody else's.
    SomebodyElse,
    /// Not good here.
    Bad,
}

/// Says who of those with a good token may call, by whose it is and which of our audiences it is for.
type Judge<T> = dyn Fn(&UserInfo, &[&str]) -> Option<T> + Send + Sync;
/// Of a token, which is not kept itself.
type Hash = [u8; 32];

/// Those who may call. `T` is what is to be known of them.
pub struct Callers<T> {
    reviews: Api<TokenReview>,
    audiences: Vec<String>,
    judge: Box<Judge<T>>,
    known: Mutex<HashMap<Hash, (Instant, Verdict<T>)>>,
    questions: Semaphore,
}

impl<T: Clone> Callers<T> {
    /// Callers with a token for one of these audiences; `judge` says who of them may call.
    pub fn new(
        client: Client,
        audiences: Vec<String>,
        judge: impl Fn(&UserInfo, &[&str]) -> Option<T> + Send + Sync + 'static,
    ) -> Self {
        Self {
            reviews: Api::all(client),
            audiences,
            judge: Box::new(judge),
            known: Mutex::default(),
            questions: Semaphore::new(AT_ONCE),
        }
    }

    /// Lets nobody else in.
    pub async fn admit(&self, headers: &HeaderMap) -> Result<T, Refusal> {
        let token = bearer(headers).ok_or(Refusal::unauthorized("Authorization: Bearer <token> is required"))?;
        let hash: Hash = Sha256::digest(token.as_bytes()).into();
        let verdict = match self.recall(&hash) {
            Some(verdict) => verdict,
            None => self.ask(hash, token).await?,
        };
        match verdict {
            Verdict::Welcome(caller) => Ok(caller),
            Verdict::SomebodyElse => Err(Refusal::forbidden("this account has no business here")),
            Verdict::Bad => Err(Refusal::unauthorized("the token is not good here")),
        }
    }

    fn recall(&self, hash: &Hash) -> Option<Verdict<T>> {
        let known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        known.get(hash).filter(|(asked, _)| asked.elapsed() < SERVES).map(|(_, verdict)| verdict.clone())
    }

    async fn ask(&self, hash: Hash, token: &str) -> Result<Verdict<T>, Refusal> {
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
            known.insert(hash, (asked, verdict.clone()));
        }
        Ok(verdict)
    }

    async fn review(&self, token: &str) -> Result<Verdict<T>, kube::Error> {
        let _permit = self.questions.acquire().await;
        let spec = TokenReviewSpec { audiences: Some(self.audiences.clone()), token: Some(token.to_owned()) };
        let review = TokenReview { spec, ..TokenReview::default() };
        let answer = self.reviews.create(&PostParams::default(), &review).await?;
        Ok(judge(&answer, &self.audiences, &self.judge))
    }
}

fn bearer(headers: &HeaderMap) -> Option<&str> {
    let (scheme, token) = headers.get(AUTHORIZATION)?.to_str().ok()?.split_once(' ')?;
    (scheme.eq_ignore_ascii_case("bearer") && token.len() <= LONGEST).then(|| token.trim())
}

/// What a review says.
pub fn judge<T>(
    review: &TokenReview,
    audiences: &[String],
    who: impl Fn(&UserInfo, &[&str]) -> Option<T>,
) -> Verdict<T> {
    let Some(status) = &review.status else { return Verdict::Bad };
    // An API server that knows nothing of audiences would leave them out.
    let granted = status.audiences.iter().flatten().filter(|known| audiences.contains(known));
    let granted: Vec<_> = granted.map(String::as_str).collect();
    if status.authenticated != Some(true) || granted.is_empty() {
        return Verdict::Bad;
    }
    status.user.as_ref().and_then(|user| who(user, &granted)).map_or(Verdict::SomebodyElse, Verdict::Welcome)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_come_as_bearers() {
        let headers = |text: &str| HeaderMap::from_iter([(AUTHORIZATION, text.parse().unwrap())]);
        assert_eq!(bearer(&headers("bearer abc")), Some("abc"));
        assert_eq!(bearer(&headers("Basic abc")), None);
        assert_eq!(bearer(&HeaderMap::new()), None);
    }
}
