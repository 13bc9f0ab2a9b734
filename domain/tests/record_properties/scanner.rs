//! The strict scanner keeps tokens, finds members that stand twice, and agrees with another implementation of
//! JSON on what is valid.

use std::collections::HashSet;
use std::fmt;

use domain::json;
use proptest::prelude::*;
use proptest::sample::Index;
use serde::de::{Deserialize, Deserializer, MapAccess, SeqAccess, Visitor};

use crate::damage::{damage, damaged};
use crate::spelled::{any_json, spaces, spelled_string};

/// serde_json's reading of a text, which refuses an object with two members of one name.
struct Distinct;

impl<'de> Deserialize<'de> for Distinct {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(DistinctVisitor)
    }
}

struct DistinctVisitor;

impl<'de> Visitor<'de> for DistinctVisitor {
    type Value = Distinct;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JSON")
    }
    fn visit_unit<E>(self) -> Result<Distinct, E> {
        Ok(Distinct)
    }
    fn visit_bool<E>(self, _: bool) -> Result<Distinct, E> {
        Ok(Distinct)
    }
    fn visit_i64<E>(self, _: i64) -> Result<Distinct, E> {
        Ok(Distinct)
    }
    fn visit_u64<E>(self, _: u64) -> Result<Distinct, E> {
        Ok(Distinct)
    }
    fn visit_f64<E>(self, _: f64) -> Result<Distinct, E> {
        Ok(Distinct)
    }
    fn visit_str<E>(self, _: &str) -> Result<Distinct, E> {
        Ok(Distinct)
    }
    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Distinct, A::Error> {
        while seq.next_element::<Distinct>()?.is_some() {}
        Ok(Distinct)
    }
    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Distinct, A::Error> {
        let mut names = HashSet::new();
        while let Some((name, Distinct)) = map.next_entry::<String, Distinct>()? {
            if !names.insert(name) {
                return Err(serde::de::Error::custom("twice"));
            }
        }
        Ok(Distinct)
    }
}

/// Both implementations accept `text`, or both refuse it; where both accept, the compact text means the same.
fn agree(text: &[u8]) {
    let mut compact = String::new();
    let ours = json::compact(text, &mut compact);
    let theirs = serde_json::from_slice::<Distinct>(text);
    match (&ours, &theirs) {
        (Ok(()), Err(error)) => {
            // It makes numbers of numbers; we never do.
            assert!(error.to_string().starts_with("number out of range"), "accepted by us, refused: {error}");
        }
        (Err(error), Ok(_)) => {
            panic!("refused by us, accepted by the other: {error}: {}", String::from_utf8_lossy(text));
        }
        (Ok(()), Ok(_)) => {
            let value = |text: &[u8]| serde_json::from_slice::<serde_json::Value>(text).expect("accepted");
            assert_eq!(value(text), value(compact.as_bytes()));
        }
        (Err(_), Err(_)) => {}
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    #[test]
    fn data_keeps_its_tokens_and_loses_its_white_space(json in any_json(), spaces in spaces()) {
        let mut compact = String::from("before");
        prop_assert_eq!(json::compact(json.spaced(&spaces).as_bytes(), &mut compact), Ok(()));
        prop_assert_eq!(compact, format!("before{}", json.compact()));
    }

    #[test]
    fn a_member_that_stands_twice_is_refused_however_it_is_spelled(
        text in any::<String>(), others in 0..40_usize, choices in prop::collection::vec(any::<u8>(), 1..9), at in any::<Index>(),
    ) {
        let mut members: Vec<String> = (0..others).map(|i| format!("\"{text}{i}\":0", text = "\\u0061")).collect();
        members.insert(at.index(members.len() + 1), format!("{}:1", spelled_string(&format!("{text} "), &[1])));
        let once = format!("{{{}}}", members.join(","));
        prop_assert_eq!(json::compact(once.as_bytes(), &mut String::new()), Ok(()));
        members.insert(at.index(members.len() + 1), format!("{}:2", spelled_string(&format!("{text} "), &choices)));
        let twice = format!("[{{\"x\":{{{}}}}}]", members.join(","));
        let error = json::compact(twice.as_bytes(), &mut String::new()).expect_err("twice");
        prop_assert_eq!(error.reason, "a member of the same name stands before");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(768))]

    #[test]
    fn another_implementation_of_json_agrees_on_what_is_valid(json in any_json(), spaces in spaces()) {
        agree(json.spaced(&spaces).as_bytes());
    }

    #[test]
    fn another_implementation_of_json_agrees_on_damaged_texts(json in any_json(), spaces in spaces(), damage in damage()) {
        agree(&damaged(json.spaced(&spaces).into_bytes(), &damage));
    }

    #[test]
    fn another_implementation_of_json_agrees_on_short_texts(text in "[-\\[\\]{}\",:019.eE+tfrualsn \\\\d]{0,12}|\"(\\\\(u[dD][8cC]0[0f]|[\"\\\\/bfnrtux])|[a\u{1}]){0,4}\"?|[0-9.eE+-]{1,8}") {
        agree(text.as_bytes());
    }
}

#[test]
fn an_object_may_have_a_hundred_thousand_members() {
    let members: Vec<String> = (0..100_000).map(|i| format!("\"{i}\":0")).collect();
    let mut text = format!("{{{}}}", members.join(","));
    let mut compact = String::new();
    assert_eq!(json::compact(text.as_bytes(), &mut compact), Ok(()));
    assert_eq!(compact, text);
    text.truncate(text.len() - 1);
    let at = text.len() + 1;
    let twice = json::compact((text + ",\"77777\":0}").as_bytes(), &mut compact).expect_err("twice");
    assert_eq!((twice.byte, twice.reason), (at, "a member of the same name stands before"));
}
