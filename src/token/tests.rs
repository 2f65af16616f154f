use proptest::prelude::*;

use super::*;

const VECTOR: &str = "brdm_01M844DZG0FAY828T5CY4TQKFF_003aUlTJC7tjlCTQj2uNU3MFagCXG9LRKRcwGkBIDlf2b9MjO";

fn vector() -> Token {
    Token {
        prefix: DEFAULT_PREFIX.parse().unwrap(),
        kind: Kind::Machine,
        id: TokenId::from_bytes(0x01a2_0846_fe00_7abc_8123_4567_89ab_cdef_u128.to_be_bytes()),
        secret: Secret::from_bytes(std::array::from_fn(|i| i as u8)),
    }
}

#[test]
fn the_vector_prints_and_parses() {
    assert_eq!(*vector().reveal(), VECTOR);
    let token = Token::parse(VECTOR).unwrap();
    assert_eq!(token.id, vector().id);
    assert_eq!(token.kind, Kind::Machine);
    assert_eq!(token.secret.as_bytes(), vector().secret.as_bytes());
    assert_eq!(token.head(), "brdm_01M844DZG0FAY828T5CY4TQKFF");
}

#[test]
fn debug_shows_the_head_only() {
    assert_eq!(format!("{:?}", vector()), "brdm_01M844DZG0FAY828T5CY4TQKFF_…");
}

/// The file holds one case a line: text, tab, what is wrong with it (`ok` when nothing is).
#[test]
fn the_vector_file_holds() {
    let file = include_str!("../../tests/vectors/tokens.tsv");
    let mut seen = 0;
    for line in file.lines().filter(|line| !line.starts_with('#')) {
        let (text, expected) = line.split_once('\t').expect("text, tab, verdict");
        let verdict = match Token::parse(text) {
            Ok(token) => {
                assert_eq!(*token.reveal(), text);
                "ok".to_owned()
            }
            Err(error) => format!("{error:?}").to_lowercase(),
        };
        assert_eq!(verdict, expected, "{text}");
        seen += 1;
    }
    assert!(seen >= 20, "only {seen} cases read");
}

#[test]
fn the_largest_secret_parses_and_one_more_does_not() {
    let largest = Token { secret: Secret::from_bytes([0xFF; 32]), ..vector() };
    let text = largest.reveal();
    assert_eq!(Token::parse(&text).unwrap().secret.as_bytes(), &[0xFF; 32]);
}

#[test]
fn a_token_is_found_inside_other_text() {
    for text in [VECTOR.to_owned(), format!("see {VECTOR}, please"), format!("x_{VECTOR}_y"), format!("ü{VECTOR}ü")] {
        assert!(holds_token(&text), "{text}");
    }
    for text in ["", "_", "brdm_01M844DZG0FAY828T5CY4TQKFF", &VECTOR[..80], &VECTOR.replace('f', "g")] {
        assert!(!holds_token(text), "{text}");
    }
}

#[test]
fn a_handle_is_a_head_or_an_id_and_never_a_token() {
    let id = vector().id;
    assert_eq!(id_of_handle("brdm_01M844DZG0FAY828T5CY4TQKFF"), Ok(id));
    assert_eq!(id_of_handle("01M844DZG0FAY828T5CY4TQKFF"), Ok(id));
    assert_eq!(id_of_handle(VECTOR), Err(Malformed::Id));
    assert_eq!(id_of_handle("01m844dzg0fay828t5cy4tqkff"), Err(Malformed::Id));
}

#[cfg(feature = "daemon")]
#[test]
fn ids_grow_within_a_millisecond_and_when_the_clock_is_set_back() {
    let ids = IdSource::default();
    let now = crate::time::UnixTime::from_secs(1_800_000_000);
    let mut last = TokenId::MIN;
    for i in 0..10_000u64 {
        let id = ids.next(if i % 3 == 0 { crate::time::UnixTime::from_secs(1_799_999_000) } else { now });
        assert!(id > last);
        last = id;
    }
}

#[cfg(feature = "daemon")]
#[test]
fn a_digest_depends_on_key_id_and_secret() {
    let token = vector();
    let reference = digest(&[7; 32], token.id, &token.secret);
    assert!(reference == digest(&[7; 32], token.id, &token.secret));
    assert!(reference != digest(&[8; 32], token.id, &token.secret));
    assert!(reference != digest(&[7; 32], TokenId::MIN, &token.secret));
    assert!(reference != digest(&[7; 32], token.id, &Secret::from_bytes([0; 32])));
}

proptest! {
    #[test]
    fn every_token_survives_its_text(prefix in "[a-z][a-z0-9]{1,7}", letter in 0usize..3, id: [u8; 16], secret: [u8; 32]) {
        let kind = [Kind::Machine, Kind::Session, Kind::Canary][letter];
        let token = Token { prefix: prefix.parse().unwrap(), kind, id: TokenId::from_bytes(id), secret: Secret::from_bytes(secret) };
        let back = Token::parse(&token.reveal()).unwrap();
        prop_assert_eq!(back.secret.as_bytes(), &secret);
        prop_assert_eq!(back.head(), token.head());
    }

    #[test]
    fn any_changed_character_is_malformed(at in 0usize..81, c in "[ -~]") {
        let mut text = VECTOR.to_owned();
        text.replace_range(at..=at, &c);
        prop_assume!(text != VECTOR);
        prop_assert!(Token::parse(&text).is_err());
    }

    #[test]
    fn any_text_is_a_verdict(text in "\\PC{0,200}") {
        let _ = Token::parse(&text);
    }
}
