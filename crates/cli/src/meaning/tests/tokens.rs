//! JWT-SVIDs that should never have been issued.

use mintage_identity::Ttl;
use mintage_ledger::{
    Body,
    wire::{self, BundleChange, BundleJwtKey, CaEvent, CaEventKind, CaRole},
};
use mintage_mint::JwtSigner;

use super::{
    kit::{Story, WEB, agent, at, domain, replica, web_entry},
    offends,
};
use crate::audit::verify::VerifyArgs;

/// An honest story with a JWT key that is prepared, active and in the bundle.
fn with_key() -> (Story, JwtSigner) {
    let mut story = Story::honest();
    let signer = JwtSigner::generate(&domain()).unwrap().0;
    for kind in [CaEventKind::Prepare, CaEventKind::Activate] {
        story.push(replica(), event(&signer, kind));
    }
    story.push(replica(), bundle(&story, &signer, signer.public().kid()));
    (story, signer)
}

fn event(signer: &JwtSigner, kind: CaEventKind) -> Body {
    Body::CaEvent(CaEvent {
        event: kind.into(),
        role: CaRole::Jwt.into(),
        key_id: signer.key_id().as_bytes().to_vec(),
        public_key: signer.public().spki_der().to_vec(),
        ..CaEvent::default()
    })
}

fn bundle(story: &Story, signer: &JwtSigner, kid: &str) -> Body {
    Body::BundleChange(BundleChange {
        sequence: 2,
        roots_der: vec![story.authority.root.certificate_der().to_vec()],
        jwt_keys: vec![BundleJwtKey {
            kid: kid.to_owned(),
            spki_der: signer.public().spki_der().to_vec(),
        }],
    })
}

/// A token of `web` that is issued with the next record.
fn token(story: &Story, signer: &JwtSigner) -> wire::IssueJwt {
    let issued_s = at(story.second()).seconds();
    wire::IssueJwt {
        spiffe_id: WEB.into(),
        entry: "web".into(),
        entry_revision: story.find("entry.put") as u64,
        selectors: web_entry().selectors,
        rule: "entry".into(),
        audiences: vec!["db".into()],
        issued_s,
        expires_s: issued_s + 300,
        kid: signer.public().kid().to_owned(),
        jti: "1".into(),
        token_sha256: vec![7; 32],
    }
}

fn push(story: &mut Story, token: wire::IssueJwt) {
    let instance = story.find("token.consume") as u64;
    story.push(agent(instance), Body::IssueJwt(token));
}

/// Appends a token after a change, and expects it to be named.
#[track_caller]
fn forged(change: impl FnOnce(&mut wire::IssueJwt), words: &str) {
    let (mut story, signer) = with_key();
    let mut token = token(&story, &signer);
    change(&mut token);
    push(&mut story, token);
    offends(&story, story.last(), words);
}

#[test]
fn an_honest_token_is_proven() {
    let (mut story, signer) = with_key();
    let token = token(&story, &signer);
    push(&mut story, token);
    let verified = story.verify(&VerifyArgs::default());
    let verified = verified.map_err(|refused| refused.failure.to_string()).unwrap();
    let json = serde_json::to_value(&verified).unwrap();
    assert_eq!(json["records"]["issue.jwt"], 1);
}

#[test]
fn what_is_not_the_entrys() {
    forged(
        |token| token.spiffe_id = "spiffe://dev.test/db".into(),
        "its identity is not",
    );
    forged(
        |token| token.spiffe_id = "spiffe://other.test/web".into(),
        "no workload of this trust domain",
    );
    forged(|token| token.entry = "gone".into(), "entry");
    forged(|token| token.entry_revision = 1, "by revision 1 of entry web");
    forged(|token| token.selectors.clear(), "its list of selectors is not");
}

#[test]
fn times_that_no_token_has() {
    forged(|token| token.issued_s -= 1, "not issued when it was recorded");
    forged(|token| token.issued_s += 3600, "not issued when it was recorded");
    forged(|token| token.expires_s = token.issued_s + 100_000, "lives for 100000 s");
    forged(|token| token.expires_s = token.issued_s, "lives for 0 s");
}

#[test]
fn a_lifetime_over_the_entrys_or_the_policys() {
    forged(
        |token| token.expires_s = token.issued_s + 601,
        "its lifetime 601s is over the 10m of entry web",
    );
    let (mut story, signer) = with_key();
    story.admin(Body::EntryPut(wire::EntryPut {
        ttl_seconds: 900,
        replaces_revision: story.find("entry.put") as u64,
        ..web_entry()
    }));
    let mut token = token(&story, &signer);
    token.entry_revision = story.last();
    token.expires_s = token.issued_s + 900;
    push(&mut story, token);
    let under = |seconds| {
        let args = VerifyArgs {
            max_ttl: Some(Ttl::from_seconds(seconds).unwrap()),
            ..VerifyArgs::default()
        };
        let verified = story.verify(&args);
        verified.map_err(|refused| (refused.index, refused.failure.to_string()))
    };
    assert!(under(900).is_ok(), "what the entry gives at most");
    // The certificates before it live for ten minutes.
    let (index, told) = under(600).unwrap_err();
    assert_eq!(index, Some(story.last()), "{told}");
    assert!(told.contains("its lifetime 15m is over the policy's 10m"), "{told}");
}

#[test]
fn an_audience_that_the_entry_does_not_allow() {
    for (forbidden, words) in [(false, "only for cache"), (true, "jwt_forbidden")] {
        let (mut story, signer) = with_key();
        let before = story.find("entry.put") as u64;
        let put = wire::EntryPut {
            jwt_forbidden: forbidden,
            jwt_audiences: if forbidden { Vec::new() } else { vec!["cache".into()] },
            replaces_revision: before,
            ..web_entry()
        };
        story.admin(Body::EntryPut(put));
        let mut token = token(&story, &signer);
        token.entry_revision = story.last();
        push(&mut story, token);
        offends(&story, story.last(), words);
    }
}

#[test]
fn a_key_that_may_not_sign() {
    forged(|token| token.kid = "ff".into(), "no record made the key");
    let (mut story, signer) = with_key();
    story.push(replica(), event(&signer, CaEventKind::Retire));
    let token = token(&story, &signer);
    push(&mut story, token);
    offends(&story, story.last(), "is retired");

    let mut story = Story::honest();
    let signer = JwtSigner::generate(&domain()).unwrap().0;
    story.push(replica(), bundle(&story, &signer, signer.public().kid()));
    offends(&story, story.last(), "which no record made");
    let (mut story, signer) = with_key();
    story.push(replica(), bundle(&story, &signer, "another"));
    offends(&story, story.last(), "which no record made");
}

#[test]
fn a_token_that_a_rule_had_struck() {
    let (mut story, signer) = with_key();
    let rule = wire::RevocationRule {
        target: Some(wire::revocation_rule::Target::Identity(WEB.into())),
        cut_s: Some(at(story.second()).seconds() - 27),
    };
    story.admin(Body::Revoke(wire::Revoke {
        rules: vec![rule],
        reason: 4,
        part: 1,
        parts: 1,
        ..wire::Revoke::default()
    }));
    let token = token(&story, &signer);
    push(&mut story, token);
    offends(&story, story.last(), "its token was dead");
}
