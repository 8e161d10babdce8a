//! Listings a page at a time, until the caller's limit.

use clap::Args;
use mintage_proto::{limits::PAGE_ROWS_MAX, v1::Page};
use tonic::Status;

use crate::{
    failure::Failure,
    limits::{EMPTY_PAGES_MAX, ROWS_MAX},
};

/// How much of a listing, and from where.
#[derive(Args, Clone, Debug, Default)]
pub(crate) struct Paging {
    /// Most rows to print.
    #[arg(long, value_name = "N")]
    limit: Option<usize>,
    /// Where to go on: the token that the page before named.
    #[arg(long, value_name = "TOKEN")]
    page: Option<String>,
}

/// The rows, and where the next page begins when there may be more.
pub(crate) type Rows<T> = (Vec<T>, Option<String>);

impl Paging {
    /// The first `limit` rows.
    pub(crate) fn at_most(limit: usize) -> Self {
        Self {
            limit: Some(limit),
            page: None,
        }
    }

    /// The caller's limit, or `default`.
    ///
    /// # Errors
    /// A limit of 0 or beyond a million.
    pub(crate) fn limit_or(&self, default: usize) -> Result<usize, Failure> {
        let limit = self.limit.unwrap_or(default);
        match (1..=ROWS_MAX).contains(&limit) {
            true => Ok(limit),
            false => Err(Failure::local(format!(
                "--limit {limit} is out of range; allowed are 1 to {ROWS_MAX}"
            ))),
        }
    }

    /// True when it goes on from a page before.
    pub(crate) fn goes_on(&self) -> bool {
        self.page.is_some()
    }

    /// Where the caller wants to go on.
    pub(crate) fn token(&self) -> Option<&str> {
        self.page.as_deref()
    }

    /// Fetches pages until there are `default` rows (or the caller's limit) or no more.
    ///
    /// # Errors
    /// A limit of 0 or beyond a million; whatever the CA answers.
    pub(crate) async fn collect<T, F>(&self, default: usize, mut fetch: F) -> Result<Rows<T>, Failure>
    where
        F: AsyncFnMut(Page) -> Result<(Vec<T>, String), Status>,
    {
        let limit = self.limit_or(default)?;
        let mut token = self.page.clone().unwrap_or_default();
        let (mut rows, mut empty) = (Vec::new(), 0);
        loop {
            let missing = u32::try_from(limit - rows.len()).unwrap_or(PAGE_ROWS_MAX);
            let page = Page {
                limit: missing.min(PAGE_ROWS_MAX),
                token: token.clone(),
            };
            let (more, next) = fetch(page).await?;
            empty = if more.is_empty() { empty + 1 } else { 0 };
            rows.extend(more);
            rows.truncate(limit);
            let stuck = !next.is_empty() && next == token;
            token = next;
            if token.is_empty() || stuck || rows.len() == limit || empty == EMPTY_PAGES_MAX {
                let next = (!token.is_empty() && !stuck).then_some(token);
                return Ok((rows, next));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn numbers(paging: &Paging, total: u32) -> (Rows<u32>, Vec<u32>) {
        let mut asked = Vec::new();
        let rows = paging
            .collect(100, async |page: Page| {
                asked.push(page.limit);
                let from: u32 = page.token.parse().unwrap_or(0);
                let to = total.min(from + page.limit.min(40));
                let next = if to < total { to.to_string() } else { String::new() };
                Ok(((from..to).collect(), next))
            })
            .await
            .unwrap();
        (rows, asked)
    }

    #[tokio::test]
    async fn pages_are_fetched_until_the_limit() {
        let ((rows, next), asked) = numbers(&Paging::default(), 1_000).await;
        assert_eq!((rows, next.as_deref()), ((0..100).collect(), Some("100")));
        assert_eq!(asked, [100, 60, 20]);
        let paging = Paging {
            limit: Some(7),
            page: Some("990".into()),
        };
        let ((rows, next), _) = numbers(&paging, 1_000).await;
        assert_eq!((rows.len(), next.as_deref()), (7, Some("997")));
        let ((rows, next), _) = numbers(
            &Paging {
                limit: Some(5_000),
                page: None,
            },
            95,
        )
        .await;
        assert_eq!((rows.len(), next), (95, None));
    }

    #[tokio::test]
    async fn a_server_that_answers_nothing_for_ever_is_left() {
        let mut calls = 0;
        let paging = Paging::default();
        let rows = paging.collect(10, async |_| {
            calls += 1;
            Ok((Vec::<u32>::new(), calls.to_string()))
        });
        assert_eq!(rows.await.unwrap(), (Vec::new(), Some(EMPTY_PAGES_MAX.to_string())));
        let same = Paging {
            limit: None,
            page: Some("x".into()),
        };
        let rows = same.collect(10, async |_| Ok((vec![1], "x".to_owned()))).await.unwrap();
        assert_eq!(rows, (vec![1], None));
    }

    #[tokio::test]
    async fn absurd_limits_are_refused() {
        for limit in [0, ROWS_MAX + 1] {
            let paging = Paging {
                limit: Some(limit),
                page: None,
            };
            let refused = paging
                .collect(10, async |_| Ok((vec![1], String::new())))
                .await
                .unwrap_err();
            assert_eq!(refused.code(), 1);
        }
    }
}
