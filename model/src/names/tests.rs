use proptest::prelude::*;

use super::*;

fn user_name() -> impl Strategy<Value = String> {
    "[A-Za-z0-9][A-Za-z0-9._-]{0,62}"
}

fn position() -> impl Strategy<Value = SetPosition> {
    any::<(u32, u32, u32)>().prop_map(|(leg, group, stripe)| SetPosition { leg, group, stripe })
}

fn owned() -> impl Strategy<Value = OwnedName> {
    let pd = || any::<u64>().prop_map(PdId::new);
    let vd = || any::<u64>().prop_map(VdId::new);
    let da = || any::<u64>().prop_map(DaId::new);
    prop_oneof![
        pd().prop_map(OwnedName::PdBdev),
        pd().prop_map(OwnedName::PdNvmeController),
        pd().prop_map(OwnedName::PdNvmeBdev),
        pd().prop_map(OwnedName::PdLvstore),
        vd().prop_map(OwnedName::VdLvol),
        (pd(), vd()).prop_map(|(p, v)| OwnedName::VdBdev(p, v)),
        (vd(), any::<Option<u64>>()).prop_map(|(v, b)| OwnedName::VdSubsystem(v, b.map(BootId::new))),
        any::<(u64, u32, u64)>().prop_map(|(c, leg, epoch)| OwnedName::Owner {
            cntlr: CntlrId::new(c),
            leg,
            epoch
        }),
        (da(), vd()).prop_map(|(d, v)| OwnedName::AttachedController(d, v)),
        (da(), vd()).prop_map(|(d, v)| OwnedName::AttachedBdev(d, v)),
        (da(), position()).prop_map(|(d, p)| OwnedName::MirrorSet(d, p)),
        (da(), position(), any::<u32>()).prop_map(|(da, set, slot)| OwnedName::SparePlaceholder {
            da,
            set,
            slot
        }),
        (da(), any::<(u32, u32)>()).prop_map(|(da, (leg, group))| OwnedName::Group { da, leg, group }),
        (da(), any::<u32>()).prop_map(|(da, leg)| OwnedName::Concat { da, leg }),
        (da(), any::<u32>()).prop_map(|(da, leg)| OwnedName::LegLvstore { da, leg }),
        da().prop_map(OwnedName::VolumeLvol),
        (da(), any::<u32>()).prop_map(|(da, leg)| OwnedName::VolumeBdev { da, leg }),
        (user_name(), user_name(), any::<u64>().prop_map(ExpId::new))
            .prop_map(|(da_name, exp_name, exp)| { OwnedName::ExpSubsystem { da_name, exp_name, exp } }),
    ]
}

const NAMESPACES: [Namespace; 5] =
    [Namespace::Bdev, Namespace::Lvstore, Namespace::Lvol, Namespace::NvmeController, Namespace::Nqn];

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    /// With every variant generated, this is also injectivity: two names of one namespace with one text could not both come back.
    #[test]
    fn parse_is_the_inverse_of_render(name in owned()) {
        prop_assert_eq!(OwnedName::parse(name.namespace(), &name.to_string()), Some(name));
    }

    /// An edit of a name of ours is another name of ours in the same spelling, or foreign; it never parses to a third spelling.
    #[test]
    fn what_parses_renders_the_same(name in owned(), at in any::<prop::sample::Index>(), with in "[0-9a-z:/+ -]{0,2}") {
        let mut text = name.to_string();
        let at = at.index(text.len());
        text.replace_range(at..=at, &with);
        for namespace in NAMESPACES {
            if let Some(parsed) = OwnedName::parse(namespace, &text) {
                prop_assert_eq!(parsed.to_string(), text.clone());
                prop_assert_eq!(parsed.namespace(), namespace);
            }
        }
    }

    #[test]
    fn anything_else_is_foreign(text in "(vda-|nqn\\.2016-06\\.io\\.vda:)?.{0,40}") {
        for namespace in NAMESPACES {
            if let Some(parsed) = OwnedName::parse(namespace, &text) {
                prop_assert_eq!(parsed.to_string(), text.clone());
            }
        }
    }

    /// SPDK's limits: 63 characters for lvols and lvstores, 223 for NQNs (findings on identity and examine).
    #[test]
    fn names_fit_the_data_plane(name in owned()) {
        let limit = match name.namespace() {
            Namespace::Lvstore | Namespace::Lvol => 63,
            Namespace::Nqn => MAX_NQN_BYTES,
            Namespace::Bdev | Namespace::NvmeController => 127,
        };
        prop_assert!(name.to_string().len() <= limit);
    }
}

#[test]
fn a_pd_bdev_and_a_pd_controller_share_a_text_but_not_a_namespace() {
    let pd = PdId::new(7);
    let text = OwnedName::PdBdev(pd).to_string();
    assert_eq!(text, OwnedName::PdNvmeController(pd).to_string());
    assert_eq!(OwnedName::parse(Namespace::Bdev, &text), Some(OwnedName::PdBdev(pd)));
    assert_eq!(OwnedName::parse(Namespace::NvmeController, &text), Some(OwnedName::PdNvmeController(pd)));
    assert_eq!(pd_base_bdev(pd, true).to_string(), "vda-pd-0000000000000007n1");
}

#[test]
fn a_subsystem_of_a_vd_is_ours_with_and_without_a_boot() {
    let (vd, boot) = (VdId::new(0xab), BootId::new(0xb007));
    let parse = |nqn: &str| OwnedName::parse(Namespace::Nqn, nqn);
    let plain = "nqn.2016-06.io.vda:vd:00000000000000ab";
    assert_eq!(parse(plain), Some(OwnedName::VdSubsystem(vd, None)));
    let booted = format!("{plain}:000000000000b007");
    assert_eq!(parse(&booted), Some(OwnedName::VdSubsystem(vd, Some(boot))));
    for foreign in ["", "b007", "000000000000B007", "000000000000b007:", "000000000000b007:0000000000000001"]
    {
        assert_eq!(parse(&format!("{plain}:{foreign}")), None, "{foreign:?}");
    }
}

#[test]
fn a_volume_of_another_array_in_a_legs_lvstore_is_foreign() {
    let text = "vda-lglvs-0000000000000001-0/vda-vol-0000000000000002";
    assert_eq!(OwnedName::parse(Namespace::Bdev, text), None);
}

#[test]
fn user_names() {
    let longest = "a".repeat(MAX_USER_NAME_BYTES);
    for good in ["a", "0", "da0", "A.b_c-d", longest.as_str()] {
        assert_eq!(check_user_name("da_name", good), Ok(()), "{good}");
    }
    let long = "a".repeat(300);
    for bad in ["", "-a", ".a", "_a", "a/b", "a b", "a:b", "dä", "a\n", "a\0", long.as_str()] {
        let error = check_user_name("da_name", bad).unwrap_err();
        assert_eq!(error.field, "da_name");
        assert!(error.to_string().len() < 300, "an error stays readable");
    }
}

#[test]
fn node_addresses() {
    for good in ["127.0.0.1:9720", "localhost:1", "dn-7.rack_2.example:65535", "[::1]:9720", "[fd00::7]:1"] {
        assert_eq!(check_node_address("address", good), Ok(()), "{good}");
    }
    for bad in [
        "",
        "localhost",
        ":1",
        "a:",
        "a:0",
        "a:01",
        "a:65536",
        "a:+1",
        "a/b:1",
        "::1:9720",
        "[::1]",
        "[x]:1",
        "-a:1",
        "a..b:1",
        "ä:1",
    ] {
        assert!(check_node_address("address", bad).is_err(), "{bad}");
    }
}

#[test]
fn host_nqns() {
    for good in [
        "nqn.2016-06.io.spdk:host0",
        "nqn.2014-08.org.nvmexpress:uuid:4b4e0b1a-0000-4000-8000-000000000001",
        "nqn.2024-01.com.example",
        "nqn.2016-06.io.spdk:a:b/c",
    ] {
        assert_eq!(check_host_nqn("initiator_nqns", good), Ok(()), "{good}");
    }
    let long = format!("nqn.2016-06.io.spdk:{}", "h".repeat(MAX_NQN_BYTES));
    for bad in [
        "",
        "host0",
        "nqn.",
        "nqn.2016-13.io.spdk:h",
        "nqn.2016-6.io.spdk:h",
        "nqn.2016-06.io.spdk:",
        "nqn.2016-06.:h",
        "nqn.2016-06.io spdk:h",
        "nqn.2016-06.io.-spdk:h",
        "nqn.2016-06.io.spdk:hö",
        long.as_str(),
    ] {
        assert!(check_host_nqn("initiator_nqns", bad).is_err(), "{bad}");
    }
}
