//! Declarations of calls, objects and closed sets.
//!
//! `rpc!` and `object!` list the required fields, a `;`, and the optional ones (which become `Option` and are absent from the
//! wire when `None`). With required fields there is `new(required...)`, to be completed as `Foo { opt: Some(1), ..Foo::new(a, b) }`;
//! without, there is `Default`.

/// Calls: parameters SPDK does not know are an error, as in SPDK.
macro_rules! rpc {
    ($( $(#[$meta:meta])* $name:ident = $method:literal -> $reply:ty, $body:tt )*) => {
        $(
            record! { [deny_unknown_fields] $(#[$meta])* $name $body }
            impl crate::Call for $name {
                const METHOD: &'static str = $method;
                const PARAMS: &'static [crate::Param] = params! { $body };
                type Reply = $reply;
            }
        )*
    };
}

/// Objects inside parameters (unknown fields are an error).
macro_rules! param_object {
    ($( $(#[$meta:meta])* $name:ident $body:tt )*) => { $( record! { [deny_unknown_fields] $(#[$meta])* $name $body } )* };
}

/// Objects in replies (unknown fields are ignored, so that a newer target can be read).
macro_rules! object {
    ($( $(#[$meta:meta])* $name:ident $body:tt )*) => { $( record! { [default] $(#[$meta])* $name $body } )* };
}

macro_rules! params {
    ({ $( $(#[$rm:meta])* $req:ident : $rty:ty, )* ; $( $(#[$om:meta])* $opt:ident : $oty:ty, )* }) => {
        &[
            $( crate::Param { name: stringify!($req), required: true }, )*
            $( crate::Param { name: stringify!($opt), required: false }, )*
        ]
    };
}

macro_rules! record {
    ([$strict:ident] $(#[$meta:meta])* $name:ident { ; $( $(#[$om:meta])* $opt:ident : $oty:ty, )* }) => {
        $(#[$meta])*
        #[derive(Debug, Clone, Default, PartialEq, serde::Serialize, serde::Deserialize)]
        #[serde($strict)]
        pub struct $name {
            $( $(#[$om])* #[serde(default, skip_serializing_if = "Option::is_none")] pub $opt: Option<$oty>, )*
        }
    };
    ([deny_unknown_fields] $(#[$meta:meta])* $name:ident { $($body:tt)* }) => {
        record! { @fields [serde(deny_unknown_fields)] $(#[$meta])* $name { $($body)* } }
    };
    ([default] $(#[$meta:meta])* $name:ident { $($body:tt)* }) => {
        record! { @fields [doc = ""] $(#[$meta])* $name { $($body)* } }
    };
    (@fields [$attr:meta] $(#[$meta:meta])* $name:ident {
        $( $(#[$rm:meta])* $req:ident : $rty:ty, )+ ; $( $(#[$om:meta])* $opt:ident : $oty:ty, )*
    }) => {
        $(#[$meta])*
        #[derive(Debug, Clone, PartialEq, serde::Serialize, serde::Deserialize)]
        #[$attr]
        pub struct $name {
            $( $(#[$rm])* pub $req: $rty, )+
            $( $(#[$om])* #[serde(default, skip_serializing_if = "Option::is_none")] pub $opt: Option<$oty>, )*
        }
        impl $name {
            /// With the required fields, in their order; the optional ones are `None`.
            #[allow(clippy::too_many_arguments)]
            pub fn new($( $req: impl Into<$rty> ),+) -> Self {
                Self { $( $req: $req.into(), )+ $( $opt: None, )* }
            }
        }
    };
}

/// A closed set of strings. What follows `|` is accepted but never sent.
macro_rules! closed {
    ($( $(#[$meta:meta])* $name:ident { $( $(#[$vm:meta])* $variant:ident = $wire:literal $(| $alias:literal)*, )+ } )*) => {
        $(
            $(#[$meta])*
            #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
            pub enum $name { $( $(#[$vm])* $variant, )+ }

            impl $name {
                /// All members, in declaration order.
                pub const ALL: &'static [Self] = &[$( Self::$variant, )+];

                /// The word on the wire.
                pub const fn as_str(self) -> &'static str {
                    match self { $( Self::$variant => $wire, )+ }
                }
            }

            impl std::str::FromStr for $name {
                type Err = crate::error::UnknownWord;
                fn from_str(s: &str) -> Result<Self, Self::Err> {
                    match s {
                        $( $wire $(| $alias)* => Ok(Self::$variant), )+
                        _ => Err(crate::error::UnknownWord { word: s.to_owned(), allowed: &[$( $wire, )+] }),
                    }
                }
            }

            impl std::fmt::Display for $name {
                fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result { f.write_str(self.as_str()) }
            }

            impl serde::Serialize for $name {
                fn serialize<S: serde::Serializer>(&self, s: S) -> Result<S::Ok, S::Error> { s.serialize_str(self.as_str()) }
            }

            impl<'de> serde::Deserialize<'de> for $name {
                fn deserialize<D: serde::Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
                    let s = <std::borrow::Cow<'de, str>>::deserialize(d)?;
                    s.parse().map_err(serde::de::Error::custom)
                }
            }
        )*
    };
}
