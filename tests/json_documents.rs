//! The documents of the public `JSONTestSuite`: what it leaves open is understood, what it calls ill-formed is refused.
//!
//! The names are the suite's, so that a case can be looked up there.

use doorbell::event::Event;
use serde_json::{Value, json};

/// A body with `value` where the company's name is expected.
fn with_name(value: &[u8]) -> Vec<u8> {
    [&br#"{"type":"SUBSCRIPTION_ORDER","payload":{"company":{"uuid":"c-1","name":"#[..], value, br"}}}"].concat()
}

fn read(case: &str, body: &[u8]) -> Value {
    let event = Event::read(body, None).unwrap_or_else(|error| panic!("{case}: {error}"));
    serde_json::to_value(event).expect("serializes")
}

fn utf_16(text: &str, unit: fn(u16) -> [u8; 2]) -> Vec<u8> {
    text.encode_utf16().flat_map(unit).collect()
}

/// The strings that the suite leaves open and that can stand in UTF-8, and what is read from each.
#[rustfmt::skip]
pub const OPEN_STRINGS: &[(&str, &[u8], &str)] = &[
    ("i_string_1st_surrogate_but_2nd_missing", br#""\uDADA""#, "\u{fffd}"),
    ("i_string_1st_valid_surrogate_2nd_invalid", br#""\uD888\u1234""#, "\u{fffd}\u{1234}"),
    ("i_string_UTF-8_invalid_sequence", b"\"\xe6\x97\xa5\xd1\x88\xfa\"", "日ш\u{fffd}"),
    ("i_string_UTF8_surrogate_U+D800", b"\"a\xed\xa0\x80b\"", "a\u{fffd}\u{fffd}\u{fffd}b"),
    ("i_string_incomplete_surrogate_and_escape_valid", br#""\uD800\nx""#, "\u{fffd}\nx"),
    ("i_string_incomplete_surrogate_pair", br#""\uDd1ea""#, "\u{fffd}a"),
    ("i_string_incomplete_surrogates_escape_valid", br#""\uD800\uD800\nx""#, "\u{fffd}\u{fffd}\nx"),
    ("i_string_invalid_lonely_surrogate", br#""\ud800""#, "\u{fffd}"),
    ("i_string_invalid_surrogate", br#""\ud800abc""#, "\u{fffd}abc"),
    ("i_string_invalid_utf-8", b"\"\xff\"", "\u{fffd}"),
    ("i_string_inverted_surrogates_U+1D11E", br#""\uDd1e\uD834""#, "\u{fffd}\u{fffd}"),
    ("i_string_iso_latin_1", b"\"\xe9\"", "\u{fffd}"),
    ("i_string_lone_second_surrogate", br#""\uDFAA""#, "\u{fffd}"),
    ("i_string_lone_utf8_continuation_byte", b"\"\x81\"", "\u{fffd}"),
    ("i_string_not_in_unicode_range", b"\"\xf4\xbf\xbf\xbf\"", "\u{fffd}\u{fffd}\u{fffd}\u{fffd}"),
    ("i_string_overlong_sequence_2_bytes", b"\"\xc0\xaf\"", "\u{fffd}\u{fffd}"),
    ("i_string_overlong_sequence_6_bytes", b"\"\xfc\x83\xbf\xbf\xbf\xbf\"", "\u{fffd}\u{fffd}\u{fffd}\u{fffd}\u{fffd}\u{fffd}"),
    ("i_string_overlong_sequence_6_bytes_null", b"\"\xfc\x80\x80\x80\x80\x80\"", "\u{fffd}\u{fffd}\u{fffd}\u{fffd}\u{fffd}\u{fffd}"),
    ("i_string_truncated-utf-8", b"\"\xe0\xff\"", "\u{fffd}\u{fffd}"),
];

#[test]
fn every_string_that_the_suite_leaves_open_is_understood_and_no_other_field_is_touched() {
    for (case, string, name) in OPEN_STRINGS {
        let event = read(case, &with_name(string));
        assert_eq!(event["payload"]["company"]["name"], json!(name), "{case}");
        assert_eq!(event["payload"]["company"]["uuid"], json!("c-1"), "{case}");
        assert_eq!(event["type"], json!("SUBSCRIPTION_ORDER"), "{case}");
    }
    let case = "i_object_key_lone_2nd_surrogate";
    let event = read(case, br#"{"type":"A","payload":{"configuration":{"\uDFAA":0,"b":"c"}}}"#);
    assert_eq!(event["payload"]["configuration"], json!({"\u{fffd}": "0", "b": "c"}), "{case}");
    assert_eq!(OPEN_STRINGS.len() + 1, 20);
}

#[test]
fn every_document_that_the_suite_leaves_open_is_understood() {
    let text = "{\"type\":\"A\",\"payload\":{\"company\":{\"name\":\"é🔔\"}}}";
    let marked = [b"\xff\xfe".to_vec(), utf_16(text, u16::to_le_bytes)].concat();
    for (case, body) in [
        ("i_string_UTF-16LE_with_BOM", marked),
        ("i_string_utf16LE_no_BOM", utf_16(text, u16::to_le_bytes)),
        ("i_string_utf16BE_no_BOM", utf_16(text, u16::to_be_bytes)),
        ("i_structure_UTF-8_BOM_empty_object", format!("\u{feff}{text}").into_bytes()),
    ] {
        assert_eq!(read(case, &body)["payload"]["company"]["name"], json!("é🔔"), "{case}");
    }
}

#[test]
fn every_number_that_the_suite_leaves_open_keeps_its_digits() {
    for (case, digits) in [
        ("i_number_double_huge_neg_exp", "123.456e-789"),
        (
            "i_number_huge_exp",
            "0.4e00669999999999999999999999999999999999999999999999999999999999999999999999969999999006",
        ),
        ("i_number_neg_int_huge_exp", "-1e+9999"),
        ("i_number_pos_double_huge_exp", "1.5e+9999"),
        ("i_number_real_neg_overflow", "-123123e100000"),
        ("i_number_real_pos_overflow", "123123e100000"),
        ("i_number_real_underflow", "123e-10000000"),
        ("i_number_too_big_neg_int", "-123123123123123123123123123123"),
        ("i_number_too_big_pos_int", "100000000000000000000"),
        ("i_number_very_big_negative_int", "-237462374673276894279832749832423479823246327846"),
    ] {
        // Beside a string that has to be mended, too.
        for unit in [&b"\"USER\""[..], b"\"US\tER\""] {
            let order =
                [&br#"{"type":"A","payload":{"order":{"items":[{"unit":"#[..], unit, br#","quantity":"#].concat();
            let body = [&order, digits.as_bytes(), b"}]}}}"].concat();
            assert_eq!(read(case, &body)["payload"]["order"]["items"][0]["quantity"], json!(digits), "{case}");
        }
    }
}

#[test]
fn a_document_whose_only_fault_is_a_character_in_a_string_is_understood() {
    for (case, string, name) in [
        ("n_string_unescaped_ctrl_char", &b"\"a\0a\""[..], "a\0a"),
        ("n_string_unescaped_newline", b"\"new\nline\"", "new\nline"),
        ("n_string_unescaped_tab", b"\"a\tb\"", "a\tb"),
        ("a return and a line feed", b"\"a\r\nb\"", "a\r\nb"),
        ("an escape character", b"\"a\x1b[31mb\"", "a\u{1b}[31mb"),
        ("a control character behind an escaped backslash", b"\"a\\\\\tb\"", "a\\\tb"),
        ("a control character beside an escaped one", b"\"a\\t\tb\"", "a\t\tb"),
        ("a control character and a pair of surrogates", b"\"\x01\\ud83d\\udd14\"", "\u{1}🔔"),
        ("an escaped zero", b"\"a\\u0000b\"", "a\0b"),
        ("an escaped quote behind an unpaired surrogate", b"\"\\ud83d\\\"b\"", "\u{fffd}\"b"),
        ("an unpaired surrogate before a pair", b"\"\\ud83d\\ud83d\\udd14\"", "\u{fffd}🔔"),
        (
            "a surrogate that is escaped and one that is not",
            b"\"\\ud83d\xed\xb4\x94\"",
            "\u{fffd}\u{fffd}\u{fffd}\u{fffd}",
        ),
    ] {
        assert_eq!(read(case, &with_name(string))["payload"]["company"]["name"], json!(name), "{case}");
    }
    // In a name, and in the type, which must not be lost.
    let event =
        read("a control character in a key", b"{\"type\":\"A\",\"payload\":{\"configuration\":{\"a\tb\":\"c\"}}}");
    assert_eq!(event["payload"]["configuration"], json!({"a\tb": "c"}));
    assert_eq!(read("a control character in the type", b"{\"type\":\"A\x01B\"}")["type"], json!("A\u{1}B"));
}

/// Documents that are ill-formed in more than the characters of a string.
#[rustfmt::skip]
const ILL_FORMED: &[(&str, &[u8])] = &[
    ("n_array_1_true_without_comma", b"[1 true]"),
    ("n_array_a_invalid_utf8", b"[a\xe5]"),
    ("n_array_colon_instead_of_comma", b"[\"\": 1]"),
    ("n_array_comma_after_close", b"[\"\"],"),
    ("n_array_comma_and_number", b"[,1]"),
    ("n_array_double_comma", b"[1,,2]"),
    ("n_array_double_extra_comma", b"[\"x\",,]"),
    ("n_array_extra_close", b"[\"x\"]]"),
    ("n_array_extra_comma", b"[\"\",]"),
    ("n_array_incomplete", b"[\"x\""),
    ("n_array_incomplete_invalid_value", b"[x"),
    ("n_array_inner_array_no_comma", b"[3[4]]"),
    ("n_array_invalid_utf8", b"[\xff]"),
    ("n_array_items_separated_by_semicolon", b"[1:2]"),
    ("n_array_just_comma", b"[,]"),
    ("n_array_just_minus", b"[-]"),
    ("n_array_missing_value", b"[   , \"\"]"),
    ("n_array_newlines_unclosed", b"[\"a\",\n4\n,1,"),
    ("n_array_number_and_comma", b"[1,]"),
    ("n_array_number_and_several_commas", b"[1,,]"),
    ("n_array_spaces_vertical_tab_formfeed", b"[\"\x0ba\"\\f]"),
    ("n_array_star_inside", b"[*]"),
    ("n_array_unclosed", b"[\"\""),
    ("n_array_unclosed_trailing_comma", b"[1,"),
    ("n_array_unclosed_with_new_lines", b"[1,\n1\n,1"),
    ("n_array_unclosed_with_object_inside", b"[{}"),
    ("n_incomplete_false", b"[fals]"),
    ("n_incomplete_null", b"[nul]"),
    ("n_incomplete_true", b"[tru]"),
    ("n_multidigit_number_then_00", b"123\0"),
    ("n_number_++", b"[++1234]"),
    ("n_number_+1", b"[+1]"),
    ("n_number_+Inf", b"[+Inf]"),
    ("n_number_-01", b"[-01]"),
    ("n_number_-1.0.", b"[-1.0.]"),
    ("n_number_-2.", b"[-2.]"),
    ("n_number_-NaN", b"[-NaN]"),
    ("n_number_.-1", b"[.-1]"),
    ("n_number_.2e-3", b"[.2e-3]"),
    ("n_number_0.1.2", b"[0.1.2]"),
    ("n_number_0.3e", b"[0.3e]"),
    ("n_number_0.3e+", b"[0.3e+]"),
    ("n_number_0.e1", b"[0.e1]"),
    ("n_number_0_capital_E", b"[0E]"),
    ("n_number_0_capital_E+", b"[0E+]"),
    ("n_number_0e", b"[0e]"),
    ("n_number_0e+", b"[0e+]"),
    ("n_number_1.0e", b"[1.0e]"),
    ("n_number_1.0e+", b"[1.0e+]"),
    ("n_number_1.0e-", b"[1.0e-]"),
    ("n_number_1_000", b"[1 000.0]"),
    ("n_number_1eE2", b"[1eE2]"),
    ("n_number_2.e+3", b"[2.e+3]"),
    ("n_number_2.e-3", b"[2.e-3]"),
    ("n_number_2.e3", b"[2.e3]"),
    ("n_number_9.e+", b"[9.e+]"),
    ("n_number_Inf", b"[Inf]"),
    ("n_number_NaN", b"[NaN]"),
    ("n_number_U+FF11_fullwidth_digit_one", b"[\xef\xbc\x91]"),
    ("n_number_expression", b"[1+2]"),
    ("n_number_hex_1_digit", b"[0x1]"),
    ("n_number_hex_2_digits", b"[0x42]"),
    ("n_number_infinity", b"[Infinity]"),
    ("n_number_invalid+-", b"[0e+-1]"),
    ("n_number_invalid-negative-real", b"[-123.123foo]"),
    ("n_number_invalid-utf-8-in-bigger-int", b"[123\xe5]"),
    ("n_number_invalid-utf-8-in-exponent", b"[1e1\xe5]"),
    ("n_number_invalid-utf-8-in-int", b"[0\xe5]"),
    ("n_number_minus_infinity", b"[-Infinity]"),
    ("n_number_minus_sign_with_trailing_garbage", b"[-foo]"),
    ("n_number_minus_space_1", b"[- 1]"),
    ("n_number_neg_int_starting_with_zero", b"[-012]"),
    ("n_number_neg_real_without_int_part", b"[-.123]"),
    ("n_number_neg_with_garbage_at_end", b"[-1x]"),
    ("n_number_real_garbage_after_e", b"[1ea]"),
    ("n_number_real_with_invalid_utf8_after_e", b"[1e\xe5]"),
    ("n_number_real_without_fractional_part", b"[1.]"),
    ("n_number_starting_with_dot", b"[.123]"),
    ("n_number_with_alpha", b"[1.2a-3]"),
    ("n_number_with_alpha_char", b"[1.8011670033376514H-308]"),
    ("n_number_with_leading_zero", b"[012]"),
    ("n_object_bad_value", b"[\"x\", truth]"),
    ("n_object_bracket_key", b"{[: \"x\"}"),
    ("n_object_comma_instead_of_colon", b"{\"x\", null}"),
    ("n_object_double_colon", b"{\"x\"::\"b\"}"),
    ("n_object_emoji", b"{\xf0\x9f\x87\xa8\xf0\x9f\x87\xad}"),
    ("n_object_garbage_at_end", b"{\"a\":\"a\" 123}"),
    ("n_object_key_with_single_quotes", b"{key: 'value'}"),
    ("n_object_lone_continuation_byte_in_key_and_trailing_comma", b"{\"\xb9\":\"0\",}"),
    ("n_object_missing_colon", b"{\"a\" b}"),
    ("n_object_missing_key", b"{:\"b\"}"),
    ("n_object_missing_semicolon", b"{\"a\" \"b\"}"),
    ("n_object_missing_value", b"{\"a\":"),
    ("n_object_no-colon", b"{\"a\""),
    ("n_object_non_string_key", b"{1:1}"),
    ("n_object_non_string_key_but_huge_number_instead", b"{9999E9999:1}"),
    ("n_object_repeated_null_null", b"{null:null,null:null}"),
    ("n_object_several_trailing_commas", b"{\"id\":0,,,,,}"),
    ("n_object_single_quote", b"{'a':0}"),
    ("n_object_trailing_comma", b"{\"id\":0,}"),
    ("n_object_trailing_comment", b"{\"a\":\"b\"}/**/"),
    ("n_object_trailing_comment_open", b"{\"a\":\"b\"}/**//"),
    ("n_object_trailing_comment_slash_open", b"{\"a\":\"b\"}//"),
    ("n_object_trailing_comment_slash_open_incomplete", b"{\"a\":\"b\"}/"),
    ("n_object_two_commas_in_a_row", b"{\"a\":\"b\",,\"c\":\"d\"}"),
    ("n_object_unquoted_key", b"{a: \"b\"}"),
    ("n_object_unterminated-value", b"{\"a\":\"a"),
    ("n_object_with_single_string", b"{ \"foo\" : \"bar\", \"a\" }"),
    ("n_object_with_trailing_garbage", b"{\"a\":\"b\"}#"),
    ("n_single_space", b" "),
    ("n_string_1_surrogate_then_escape", b"[\"\\uD800\\\"]"),
    ("n_string_1_surrogate_then_escape_u", b"[\"\\uD800\\u\"]"),
    ("n_string_1_surrogate_then_escape_u1", b"[\"\\uD800\\u1\"]"),
    ("n_string_1_surrogate_then_escape_u1x", b"[\"\\uD800\\u1x\"]"),
    ("n_string_accentuated_char_no_quotes", b"[\xc3\xa9]"),
    ("n_string_backslash_00", b"[\"\\\0\"]"),
    ("n_string_escape_x", b"[\"\\x00\"]"),
    ("n_string_escaped_backslash_bad", b"[\"\\\\\\\"]"),
    ("n_string_escaped_ctrl_char_tab", b"[\"\\\t\"]"),
    ("n_string_escaped_emoji", b"[\"\\\xf0\x9f\x8c\x80\"]"),
    ("n_string_incomplete_escape", b"[\"\\\"]"),
    ("n_string_incomplete_escaped_character", b"[\"\\u00A\"]"),
    ("n_string_incomplete_surrogate", b"[\"\\uD834\\uDd\"]"),
    ("n_string_incomplete_surrogate_escape_invalid", b"[\"\\uD800\\uD800\\x\"]"),
    ("n_string_invalid-utf-8-in-escape", b"[\"\\u\xe5\"]"),
    ("n_string_invalid_backslash_esc", b"[\"\\a\"]"),
    ("n_string_invalid_unicode_escape", b"[\"\\uqqqq\"]"),
    ("n_string_invalid_utf8_after_escape", b"[\"\\\xe5\"]"),
    ("n_string_leading_uescaped_thinspace", b"[\\u0020\"asd\"]"),
    ("n_string_no_quotes_with_bad_escape", b"[\\n]"),
    ("n_string_single_doublequote", b"\""),
    ("n_string_single_quote", b"['single quote']"),
    ("n_string_single_string_no_double_quotes", b"abc"),
    ("n_string_start_escape_unclosed", b"[\"\\"),
    ("n_string_unicode_CapitalU", b"\"\\UA66D\""),
    ("n_string_with_trailing_garbage", b"\"\"x"),
    ("n_structure_U+2060_word_joined", b"[\xe2\x81\xa0]"),
    ("n_structure_UTF8_BOM_no_data", b"\xef\xbb\xbf"),
    ("n_structure_angle_bracket_.", b"<.>"),
    ("n_structure_angle_bracket_null", b"[<null>]"),
    ("n_structure_array_trailing_garbage", b"[1]x"),
    ("n_structure_array_with_extra_array_close", b"[1]]"),
    ("n_structure_array_with_unclosed_string", b"[\"asd]"),
    ("n_structure_ascii-unicode-identifier", b"a\xc3\xa5"),
    ("n_structure_capitalized_True", b"[True]"),
    ("n_structure_close_unopened_array", b"1]"),
    ("n_structure_comma_instead_of_closing_brace", b"{\"x\": true,"),
    ("n_structure_double_array", b"[][]"),
    ("n_structure_end_array", b"]"),
    ("n_structure_incomplete_UTF8_BOM", b"\xef\xbb{}"),
    ("n_structure_lone-invalid-utf-8", b"\xe5"),
    ("n_structure_lone-open-bracket", b"["),
    ("n_structure_no_data", b""),
    ("n_structure_null-byte-outside-string", b"[\0]"),
    ("n_structure_number_with_trailing_garbage", b"2@"),
    ("n_structure_object_followed_by_closing_object", b"{}}"),
    ("n_structure_object_unclosed_no_value", b"{\"\":"),
    ("n_structure_object_with_comment", b"{\"a\":/*comment*/\"b\"}"),
    ("n_structure_object_with_trailing_garbage", b"{\"a\": true} \"x\""),
    ("n_structure_open_array_apostrophe", b"['"),
    ("n_structure_open_array_comma", b"[,"),
    ("n_structure_open_array_open_object", b"[{"),
    ("n_structure_open_array_open_string", b"[\"a"),
    ("n_structure_open_array_string", b"[\"a\""),
    ("n_structure_open_object", b"{"),
    ("n_structure_open_object_close_array", b"{]"),
    ("n_structure_open_object_comma", b"{,"),
    ("n_structure_open_object_open_array", b"{["),
    ("n_structure_open_object_open_string", b"{\"a"),
    ("n_structure_open_object_string_with_apostrophes", b"{'a'"),
    ("n_structure_open_open", b"[\"\\{[\"\\{[\"\\{[\"\\{"),
    ("n_structure_single_eacute", b"\xe9"),
    ("n_structure_single_star", b"*"),
    ("n_structure_trailing_#", b"{\"a\":\"b\"}#{}"),
    ("n_structure_uescaped_LF_before_string", b"[\\u000A\"\"]"),
    ("n_structure_unclosed_array", b"[1"),
    ("n_structure_unclosed_array_partial_null", b"[ false, nul"),
    ("n_structure_unclosed_array_unfinished_false", b"[ true, fals"),
    ("n_structure_unclosed_array_unfinished_true", b"[ false, tru"),
    ("n_structure_unclosed_object", b"{\"asd\":\"asd\""),
    ("n_structure_unicode-identifier", b"\xc3\xa5"),
    ("n_structure_whitespace_U+2060_word_joiner", b"\xe2\x81\xa0"),
    ("n_structure_whitespace_formfeed", b"[\x0c]"),
];

#[test]
fn every_document_that_is_ill_formed_otherwise_is_refused_as_such() {
    for (case, document) in ILL_FORMED {
        let whole = Event::read(document, None).expect_err(case).to_string();
        assert!(whole.contains("not well-formed"), "{case}: {whole}");
        // Within an event that is in order, with and without a string that is mended.
        for name in [&b"\"Acme\""[..], b"\"Ac\tm\xe9\\ud83d\""] {
            let before = br#"{"type":"SUBSCRIPTION_ORDER","payload":{"company":{"name":"#;
            let body = [&before[..], name, br#"},"extra":"#, document, b"}}"].concat();
            let inside = Event::read(&body, None).expect_err(case).to_string();
            assert!(inside.contains("not well-formed"), "{case}: {inside}");
        }
    }
    // With the two that are nested too deep and the three whose only fault is a raw control character.
    assert_eq!(ILL_FORMED.len() + 2 + 3, 188);
}

#[test]
fn a_document_that_is_nested_too_deep_is_refused_before_the_stack_is() {
    let arrays = b"[".repeat(100_000);
    let objects = b"[{\"\":".repeat(50_000);
    for (case, document) in [
        ("n_structure_100000_opening_arrays", &arrays),
        ("n_structure_open_array_object", &objects),
        ("i_structure_500_nested_arrays", &[b"[".repeat(500), b"]".repeat(500)].concat()),
    ] {
        for body in [document.clone(), with_name(document)] {
            let error = Event::read(&body, None).expect_err(case).to_string();
            assert!(error.contains("levels deep"), "{case}: {error}");
        }
    }
}

#[test]
fn a_fault_is_told_in_few_words_and_without_control_characters() {
    let long = [&b"<a><b"[..], &b"b".repeat(100_000), b"></c></a>"].concat();
    for body in [&b"{\"type\":\x1b[31m}"[..], b"<event><type>A</\x1b[31m></event>", &long] {
        let error = Event::read(body, None).expect_err("ill-formed").to_string();
        assert!(error.len() < 1000 && !error.chars().any(char::is_control), "{error:?}");
    }
}
