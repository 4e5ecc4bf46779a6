use super::*;

#[test]
fn durations_read_and_print_in_the_largest_exact_unit() {
    for (text, millis, printed) in [
        ("500ms", 500, "500ms"),
        ("30s", 30_000, "30s"),
        ("90s", 90_000, "90s"),
        ("5m", 300_000, "5m"),
        ("60 s", 60_000, "1m"),
        ("2h", 7_200_000, "2h"),
        ("0", 0, "0s"),
    ] {
        let duration: Duration = text.parse().unwrap();
        assert_eq!(duration, Duration::from_millis(millis), "{text}");
        assert_eq!(duration.to_string(), printed, "{text}");
        assert_eq!(duration.to_string().parse::<Duration>().unwrap(), duration, "{text}");
    }
}

#[test]
fn sizes_read_and_print_in_the_largest_exact_unit() {
    for (text, bytes, printed) in [
        ("64KiB", 65_536, "64KiB"),
        ("4MiB", 4 << 20, "4MiB"),
        ("1024KiB", 1 << 20, "1MiB"),
        ("1GB", 1_000_000_000, "1GB"),
        ("17B", 17, "17B"),
        ("0", 0, "0B"),
    ] {
        let size: ByteSize = text.parse().unwrap();
        assert_eq!(size, ByteSize::bytes(bytes), "{text}");
        assert_eq!(size.to_string(), printed, "{text}");
        assert_eq!(size.to_string().parse::<ByteSize>().unwrap(), size, "{text}");
    }
}

#[test]
fn what_has_no_unit_or_does_not_fit_is_refused_with_an_example() {
    assert!(matches!("30".parse::<Duration>(), Err(ParseUnitError::NoUnit { .. })));
    assert!("30".parse::<Duration>().unwrap_err().to_string().contains("\"30s\""));
    for text in ["", "s", "1.5s", "-1s", "1 s x", "5 minutes", "\u{661}s"] {
        assert!(matches!(text.parse::<Duration>(), Err(ParseUnitError::Invalid { .. })), "{text}");
    }
    assert!(matches!("9999999999h".parse::<Duration>(), Err(ParseUnitError::TooLarge { .. })));
    assert!(matches!("99999999999999999999B".parse::<ByteSize>(), Err(ParseUnitError::TooLarge { .. })));
    assert!(matches!("64KB".parse::<ByteSize>(), Err(ParseUnitError::Invalid { .. })));
}

#[test]
fn a_bare_number_in_a_file_is_refused() {
    assert!(serde_json::from_str::<Duration>("30").is_err());
    assert_eq!(serde_json::from_str::<Duration>("\"30s\"").unwrap(), Duration::from_secs(30));
    assert_eq!(serde_json::to_string(&ByteSize::kib(64)).unwrap(), "\"64KiB\"");
}
