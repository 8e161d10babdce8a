//! Tokens that were mistyped, stolen, raced for and asked for again.

use proptest::prelude::*;

use super::*;

fn token() -> JoinToken {
    JoinToken::new(
        vec!["ca.dev.test:8443".into(), "[::1]:8443".into()],
        vec![CertHash::new([7; 32]), CertHash::new([9; 32])],
        TrustDomain::parse("dev.test").unwrap(),
        Zeroizing::new([42; 32]),
    )
    .unwrap()
}

const NOW: UnixTime = UnixTime::from_seconds(1_800_000_000);
const KEY: SpkiHash = SpkiHash::new([1; 32]);
const OTHER_KEY: SpkiHash = SpkiHash::new([2; 32]);

fn domain() -> TrustDomain {
    TrustDomain::parse("dev.test").unwrap()
}

fn seconds(n: u64) -> std::time::Duration {
    std::time::Duration::from_secs(n)
}

fn standing() -> TokenStanding {
    TokenStanding {
        hash: token().secret_hash(),
        agent: AgentName::parse("node-1").unwrap(),
        not_before: NOW.minus(seconds(10)),
        expires: NOW.plus(seconds(590)),
        bound: None,
    }
}

fn used(key: SpkiHash, ago: u64) -> TokenStanding {
    TokenStanding {
        bound: Some(TokenUse {
            key,
            instance: AgentInstance(17),
            at: NOW.minus(seconds(ago)),
        }),
        ..standing()
    }
}

fn ask(standing: Option<&TokenStanding>, key: SpkiHash) -> Result<Joined, AttestError> {
    verify(&token().secret_hash(), standing, &key, &domain(), NOW)
}

#[test]
fn the_string_form_comes_back_whole_and_shows_no_secret_in_debug() {
    let text = token().encode();
    assert!(text.starts_with("mint1_"));
    assert_eq!(JoinToken::parse(&text).unwrap().encode(), text);
    assert_eq!(JoinToken::parse(&format!("  {}\r\n", *text)).unwrap().encode(), text);
    let parsed = JoinToken::parse(&text).unwrap();
    assert_eq!(parsed.addresses(), token().addresses());
    assert_eq!(parsed.root_hashes(), token().root_hashes());
    assert_eq!(parsed.trust_domain(), token().trust_domain());
    assert_eq!(
        (parsed.secret(), parsed.secret_hash()),
        (&[42; 32], token().secret_hash())
    );
    let shown = format!("{:?}", token());
    assert!(shown.contains("...") && !shown.contains("42"), "{shown}");
}

#[test]
fn a_typo_a_cut_or_something_else_is_told_from_a_refusal_and_never_echoed() {
    let whole = token().encode().to_string();
    let mut typo = whole.clone();
    let at = typo.len() / 2;
    let swapped = if typo.as_bytes()[at] == b'A' { "B" } else { "A" };
    typo.replace_range(at..=at, swapped);
    let huge = format!("{TOKEN_PREFIX}{}", "A".repeat(1 << 20));
    let newer = whole.replacen("mint1_", "mint2_", 1);
    for bad in [
        "",
        "mint1_",
        "mint1_AAAA",
        "hello",
        &typo,
        &whole[..whole.len() - 1],
        &newer,
        &huge,
        "mint1_ä",
    ] {
        let error = JoinToken::parse(bad).unwrap_err();
        assert!(matches!(error, AttestError::TokenMalformed(_)), "{error:?}");
        assert!(error.to_string().len() < 200);
    }
    assert!(
        JoinToken::parse(&typo)
            .unwrap_err()
            .to_string()
            .contains("copy the whole line")
    );
}

#[test]
fn a_right_checksum_does_not_excuse_a_wrong_content() {
    let seal = |content: &[u8]| {
        let whole = [content, &checksum_of(content)].concat();
        format!("{TOKEN_PREFIX}{}", URL_SAFE_NO_PAD.encode(whole))
    };
    let text = token().encode();
    let bytes = URL_SAFE_NO_PAD.decode(&text[TOKEN_PREFIX.len()..]).unwrap();
    let content = &bytes[..bytes.len() - CHECKSUM_BYTES];
    assert!(JoinToken::parse(&seal(content)).is_ok());
    for cut in 0..content.len() {
        assert!(JoinToken::parse(&seal(&content[..cut])).is_err(), "{cut}");
    }
    assert!(JoinToken::parse(&seal(&[content, &[0]].concat())).is_err());
    assert!(JoinToken::parse(&seal(&[0xff; 512])).is_err());
}

#[test]
fn addresses_and_roots_have_limits() {
    let make = |addresses: Vec<String>, roots| {
        JoinToken::new(
            addresses,
            vec![CertHash::new([7; 32]); roots],
            domain(),
            Zeroizing::new([0; 32]),
        )
    };
    let good = || vec!["a:1".to_owned()];
    for bad in [
        "",
        "a",
        "a:",
        ":1",
        "a:0",
        "a:65536",
        "a:+1",
        "a b:1",
        "::1:1",
        "[x]:1",
        "http://a:1",
        "u@a:1",
        "a/b:1",
    ] {
        assert!(make(vec![bad.into()], 1).is_err(), "{bad:?}");
    }
    for fine in ["10.0.0.1:8443", "[fe80::1]:443", "ca:1", "ca-1.eu_x.example:65535"] {
        assert!(make(vec![fine.into()], 1).is_ok(), "{fine:?}");
    }
    assert!(make(vec![format!("{}:1", "a".repeat(254))], 1).is_err());
    assert!(make(vec![], 1).is_err() && make(good(), 0).is_err());
    assert!(make(vec!["a:1".into(); 9], 1).is_err() && make(good(), 9).is_err());
    let largest = make(vec![format!("{}:65535", "a".repeat(249)); 8], 8).unwrap();
    let longest = TrustDomain::parse(&"t".repeat(255)).unwrap();
    let largest = JoinToken {
        trust_domain: longest,
        ..largest
    };
    let text = largest.encode();
    assert!(text.len() <= TOKEN_BYTES_MAX, "{}", text.len());
    assert_eq!(JoinToken::parse(&text).unwrap().encode(), text);
}

#[test]
fn the_first_use_makes_an_agent_and_the_same_key_gets_the_same_agent_again() {
    let first = ask(Some(&standing()), KEY).unwrap();
    assert_eq!(first.verdict(), JoinVerdict::First);
    let first = first.into_attested(AgentInstance(17)).unwrap();
    assert_eq!(first.agent().as_str(), "spiffe://dev.test/mintage/agent/node-1");
    assert_eq!((first.kind(), first.instance()), ("join_token", AgentInstance(17)));
    for ago in [0, 60, 24 * 3600] {
        let again = ask(Some(&used(KEY, ago)), KEY).unwrap();
        assert_eq!(again.verdict(), JoinVerdict::Retry(AgentInstance(17)));
        assert_eq!(again.into_attested(AgentInstance(17)).unwrap(), first);
    }
    // A retry is granted though the token has expired since its use.
    let expired = TokenStanding {
        expires: NOW.minus(seconds(30)),
        ..used(KEY, 60)
    };
    assert!(ask(Some(&expired), KEY).is_ok());
    let misled = ask(Some(&used(KEY, 0)), KEY).unwrap();
    assert!(misled.into_attested(AgentInstance(18)).is_err());
}

#[test]
fn unknown_expired_early_used_and_stolen_tokens_get_one_answer_and_only_theft_alarms() {
    let expired = TokenStanding {
        expires: NOW,
        ..standing()
    };
    let early = TokenStanding {
        not_before: NOW.plus(seconds(1)),
        ..standing()
    };
    let misfiled = TokenStanding {
        hash: TokenHash::new([0; 32]),
        ..standing()
    };
    let cases = [
        ("token_unknown", None, KEY),
        ("token_unknown", Some(&misfiled), KEY),
        ("token_expired", Some(&expired), KEY),
        ("token_early", Some(&early), KEY),
        ("token_used", Some(&used(KEY, 24 * 3600 + 1)), KEY),
        ("token_other_key", Some(&used(KEY, 1)), OTHER_KEY),
        ("token_other_key", Some(&used(KEY, 30 * 24 * 3600)), OTHER_KEY),
    ]
    .map(|(code, standing, key)| (code, ask(standing, key).unwrap_err()));
    for (code, error) in &cases {
        assert_eq!(error.code(), *code);
        assert_eq!(error.to_string(), cases[0].1.to_string());
        assert_ne!(error.detail(), error.to_string());
        assert_eq!(error.is_alarming(), *code == "token_other_key");
    }
}

#[test]
fn secrets_of_a_wrong_length_name_no_token() {
    let right = TokenHash::of_presented(&[42; 32]);
    assert_eq!(right, token().secret_hash());
    let huge = vec![42; 1 << 20];
    for wrong in [&b""[..], &[42; 31], &[42; 33], &huge] {
        assert_ne!(TokenHash::of_presented(wrong), right);
        assert_eq!(TokenHash::of_presented(wrong), TokenHash::of_presented(b""));
    }
    assert_ne!(
        TokenHash::of_presented(right.as_bytes()),
        right,
        "a stolen hash is no secret"
    );
}

#[test]
fn sixty_four_racers_with_one_token_make_one_agent() {
    // The state's part in small: the first record for a token binds it; later ones change nothing.
    let shared = std::sync::Mutex::new(standing());
    let winners: Vec<u64> = std::thread::scope(|scope| {
        let racers: Vec<_> = (0..64)
            .map(|n| {
                let shared = &shared;
                scope.spawn(move || {
                    let key = SpkiHash::new([n; 32]);
                    let seen = shared.lock().unwrap().clone();
                    let joined = ask(Some(&seen), key).ok()?;
                    let index = 100 + u64::from(n);
                    let mut state = shared.lock().unwrap();
                    state.bound.get_or_insert(TokenUse {
                        key,
                        instance: AgentInstance(index),
                        at: NOW,
                    });
                    // After its record was applied each racer looks again: only the bound key finds itself.
                    let after = ask(Some(&state), key).ok()?;
                    drop(joined);
                    match after.verdict() {
                        JoinVerdict::Retry(instance) => Some(instance.0),
                        JoinVerdict::First => None,
                    }
                })
            })
            .collect();
        racers.into_iter().filter_map(|racer| racer.join().unwrap()).collect()
    });
    assert_eq!(winners.len(), 1);
}

proptest! {
    #[test]
    fn any_token_comes_back_from_its_string(
        ports in prop::collection::vec(1..=65_535_u16, 1..=8),
        roots in prop::collection::vec(any::<[u8; 32]>(), 1..=8),
        domain in "[a-z0-9][a-z0-9._-]{0,60}",
        secret in any::<[u8; 32]>(),
    ) {
        let token = JoinToken::new(
            ports.iter().map(|port| format!("host-{port}.example:{port}")).collect(),
            roots.into_iter().map(CertHash::new).collect(),
            TrustDomain::parse(&domain).unwrap(),
            Zeroizing::new(secret),
        ).unwrap();
        let text = token.encode();
        prop_assert!(text.len() <= TOKEN_BYTES_MAX);
        prop_assert_eq!(JoinToken::parse(&text).unwrap().encode(), text);
    }

    #[test]
    fn any_single_changed_character_is_a_typo(at in 6..200_usize, other in "[A-Za-z0-9_-]") {
        let mut text = token().encode().to_string();
        prop_assume!(at < text.len() && text[at..=at] != other);
        text.replace_range(at..=at, &other);
        prop_assert!(matches!(JoinToken::parse(&text), Err(AttestError::TokenMalformed(_))));
    }

    #[test]
    fn no_text_panics_the_parser(text in ".{0,300}", tail in "[A-Za-z0-9_-]{0,300}") {
        prop_assert!(JoinToken::parse(&text).is_err());
        let sealed = format!("{TOKEN_PREFIX}{tail}");
        prop_assert!(JoinToken::parse(&sealed).is_err());
    }
}
