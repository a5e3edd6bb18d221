use proptest::prelude::*;

use super::*;

fn any_key() -> impl Strategy<Value = AnyKey> {
    let name = || "[A-Za-z0-9][A-Za-z0-9._-]{0,62}";
    let address = || {
        "[a-z0-9]([a-z0-9.]{0,8}[a-z0-9])?:[1-9][0-9]{0,3}"
            .prop_filter("no empty label", |a| !a.contains(".."))
    };
    (any::<(u64, u64, u64, u32)>(), name(), address(), "[!-.0-~]{1,64}", 0..22_u8).prop_map(
        |((a, b, c, leg), name, address, request, which)| {
            let (dn, cn, da, pd, exp) =
                (DnId::new(a), CnId::new(a), DaId::new(b), PdId::new(b), ExpId::new(c));
            match which {
                0 => AnyKey::DnSpec(dn),
                1 => AnyKey::DnGen(dn),
                2 => AnyKey::DnCapacity(dn),
                3 => AnyKey::PdSpec(dn, pd),
                4 => AnyKey::DnShare(dn, da),
                5 => AnyKey::CnSpec(cn),
                6 => AnyKey::CnGen(cn),
                7 => AnyKey::CnCapacity(cn),
                8 => AnyKey::CntlrSpec(cn, da),
                9 => AnyKey::ExpSpec(cn, da, exp),
                10 => AnyKey::LegState(da, leg),
                11 => AnyKey::Da(name),
                12 => AnyKey::DaTombstone(da),
                13 => AnyKey::DnName(address),
                14 => AnyKey::CnName(address),
                15 => AnyKey::DnStatus(dn),
                16 => AnyKey::ShareStatus(dn, da),
                17 => AnyKey::CnStatus(cn),
                18 => AnyKey::CntlrStatus(cn, da),
                19 => AnyKey::Request(request),
                20 => AnyKey::DnBoot(dn),
                _ => AnyKey::Monitor(MonitorId::new(c)),
            }
        },
    )
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn parse_is_the_inverse_of_path(key in any_key()) {
        let prefix = Prefix::new("/vda/test").unwrap();
        prop_assert_eq!(AnyKey::parse(&prefix, &key.path(&prefix)), Some(key.clone()));
        prop_assert!(Scope::All.contains(&key));
        prop_assert_eq!(AnyKey::parse(&Prefix::default(), &key.path(&prefix)), None);
    }

    #[test]
    fn what_parses_renders_the_same(key in any_key(), at in any::<prop::sample::Index>(), with in "[0-9a-z:/+ -]{0,2}") {
        let prefix = Prefix::default();
        let mut path = key.path(&prefix);
        let at = at.index(path.len());
        path.replace_range(at..=at, &with);
        if let Some(parsed) = AnyKey::parse(&prefix, &path) {
            prop_assert_eq!(parsed.path(&prefix), path);
        }
    }
}

#[test]
fn a_scope_contains_its_keys_and_no_others() {
    let (dn, da) = (DnId::new(1), DaId::new(2));
    assert!(Scope::Dn(dn).contains(&AnyKey::DnShare(dn, da)));
    assert!(Scope::DnShares(dn).contains(&AnyKey::DnShare(dn, da)));
    assert!(!Scope::DnPds(dn).contains(&AnyKey::DnShare(dn, da)));
    assert!(!Scope::Dns.contains(&AnyKey::DnStatus(dn)));
    assert!(Scope::DnStatuses.contains(&AnyKey::ShareStatus(dn, da)));
    assert_eq!(Scope::Das.path(&Prefix::default()), "/vda/da/");
}

#[test]
fn prefixes() {
    assert_eq!(Prefix::new("/vda/").map(|p| p.to_string()), Ok("/vda".to_owned()));
    assert_eq!(DnSpecKey(DnId::new(10)).path(&Prefix::default()), "/vda/dn/000000000000000a/spec");
    for bad in ["", "/", "vda", "/vda//x", "/vda x", "//"] {
        assert!(Prefix::new(bad).is_err(), "{bad}");
    }
}
