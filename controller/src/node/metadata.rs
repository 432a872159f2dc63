//! What the node controller writes down in a domain: the element `<kvmoor:vm>` of its persistent metadata.
//!
//! It is the only memory that survives the controller, so it decides what "once" means: a request is recorded here
//! before it is done. Reading and writing it are pure; the calls are in `hypervisor`.

use quick_xml::events::{BytesStart, Event};
use quick_xml::{Reader, XmlVersion};

use super::xml::Element;

/// The namespace of the element.
pub const NAMESPACE: &str = "https://kvmoor.dev/libvirt/v1";
/// The prefix that libvirt writes it with.
pub const PREFIX: &str = "kvmoor";

/// How a guest went off by itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Halt {
    /// The guest powered itself off.
    Guest,
    /// Anything else: QEMU died, somebody pulled the plug.
    Crash,
    /// The guest's kernel panicked, and said so by its pvpanic device.
    Panic,
}

impl Halt {
    fn as_str(self) -> &'static str {
        match self {
            Self::Guest => "guest",
            Self::Crash => "crash",
            Self::Panic => "panic",
        }
    }
}

/// What is done with a clone's copies before the domain is as any other.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Settling {
    /// The snapshot in them that is to be gone back to.
    pub apply: Option<String>,
    /// The snapshots in them that are to be deleted.
    pub snapshots: Vec<String>,
}

/// How far the guest's file systems were frozen for a snapshot. While it is recorded they may be frozen still.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Freeze {
    /// The guest agent is being asked to.
    Begun,
    /// They are frozen.
    Done,
    /// The agent did not say that they are.
    Failed,
}

impl Freeze {
    fn as_str(self) -> &'static str {
        match self {
            Self::Begun => "begun",
            Self::Done => "done",
            Self::Failed => "failed",
        }
    }
}

/// The element's content. Times are milliseconds since 1970.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Metadata {
    /// UID of the virtual machine that the domain belongs to.
    pub uid: String,
    /// Its namespace, for people who look at the domain.
    pub namespace: String,
    /// Its name, for people who look at the domain.
    pub name: String,
    /// The image that the root disk was made from; none where it was made blank.
    pub image: Option<String>,
    /// Fingerprint of the configuration that the domain was last defined with.
    pub config: String,
    /// The restart request taken up last.
    pub restart: i64,
    /// The reset request taken up last.
    pub reset: i64,
    /// The power-off request taken up last.
    pub power_off: i64,
    /// Fingerprint of the seed that was written last; none in a domain of before there were any.
    pub seed: Option<String>,
    /// The reprovision request that this seed is of.
    pub reprovision: i64,
    /// Since when the domain is being brought down. 0 means that its time is over, so that it is turned off at once.
    pub stopping: Option<i64>,
    /// The host's boot in which the domain was started. It says that what is off now has run, not that it runs.
    pub started: Option<String>,
    /// When that was.
    pub started_at: Option<i64>,
    /// The guest went off by itself.
    pub halted: Option<Halt>,
    /// How often in a row it went off by itself without having run for long.
    pub crashes: u32,
    /// When it last went off by itself.
    pub crashed_at: Option<i64>,
    /// Names of the disks beside the root disk that are, or may be, there.
    pub disks: Vec<String>,
    /// What is left to do with the copies that a clone's disks are. Until it is done, nothing else is done with the
    /// domain.
    pub settling: Option<Settling>,
    /// UID of the restore that was begun. Until it is done or given up, nothing else is done with the domain.
    pub restoring: Option<String>,
    /// UID of the restore that made the domain what it is. It comes with the snapshot's own configuration, in which it
    /// is written before: so it is there if, and only if, the restore was done.
    pub restored: Option<String>,
    /// The guest's file systems may be frozen. A snapshot that was taken meanwhile has it too, so that whoever brings the
    /// guest back to it thaws it.
    pub freeze: Option<Freeze>,
}

impl Metadata {
    /// Forgets the last run: the domain is as if it had never been started.
    pub fn forget_run(&mut self) {
        self.stopping = None;
        self.started = None;
        self.started_at = None;
        self.halted = None;
        self.crashes = 0;
        self.crashed_at = None;
    }

    /// The element as it stands in a domain XML.
    pub fn to_element(&self) -> Element {
        self.attributes(Element::new("kvmoor:vm").attr("xmlns:kvmoor", NAMESPACE))
    }

    /// The element as `virDomainSetMetadata` takes it: libvirt itself puts it into the namespace.
    pub fn to_bare_element(&self) -> Element {
        self.attributes(Element::new("vm"))
    }

    fn attributes(&self, element: Element) -> Element {
        let Self {
            uid,
            namespace,
            name,
            image,
            config,
            restart,
            reset,
            power_off,
            seed,
            reprovision,
            stopping,
            started,
            started_at,
            halted,
            crashes,
            crashed_at,
            disks,
            settling,
            restoring,
            restored,
            freeze,
        } = self;
        let mut element = element
            .attr("uid", uid)
            .attr("namespace", namespace)
            .attr("name", name)
            .attr("config", config)
            .attr("restart", restart)
            .attr("reset", reset)
            .attr("powerOff", power_off);
        let optional = [
            ("image", image.clone()),
            ("seed", seed.clone()),
            ("reprovision", (*reprovision > 0).then(|| reprovision.to_string())),
            ("stopping", stopping.map(|time| time.to_string())),
            ("started", started.clone()),
            ("startedAt", started_at.map(|time| time.to_string())),
            ("halted", halted.map(|halt| halt.as_str().to_owned())),
            ("crashes", (*crashes > 0).then(|| crashes.to_string())),
            ("crashedAt", crashed_at.map(|time| time.to_string())),
            // Names have no spaces.
            ("disks", (!disks.is_empty()).then(|| disks.join(" "))),
            ("settling", settling.as_ref().map(|settling| settling.snapshots.join(" "))),
            ("apply", settling.as_ref().and_then(|settling| settling.apply.clone())),
            ("restoring", restoring.clone()),
            ("restored", restored.clone()),
            ("freeze", freeze.map(|freeze| freeze.as_str().to_owned())),
        ];
        for (key, value) in optional {
            if let Some(value) = value {
                element = element.attr(key, value);
            }
        }
        element
    }

    /// Reads the element as libvirt gives it back, with or without prefix. `None` where it is not ours or has no UID.
    pub fn parse(xml: &str) -> Option<Self> {
        let mut reader = Reader::from_str(xml);
        loop {
            match reader.read_event().ok()? {
                Event::Start(start) | Event::Empty(start) => return Self::from_attributes(&start),
                Event::Eof => return None,
                _ => {}
            }
        }
    }

    /// Reads the attributes of the element. `None` where it has no UID.
    pub fn from_attributes(start: &BytesStart<'_>) -> Option<Self> {
        let text = |key: &str| -> Option<String> {
            let attribute = start.try_get_attribute(key).ok()??;
            Some(attribute.normalized_value(XmlVersion::Implicit1_0).ok()?.into_owned())
        };
        let number = |key: &str| text(key).and_then(|value| value.parse::<i64>().ok());
        Some(Self {
            uid: text("uid")?,
            namespace: text("namespace").unwrap_or_default(),
            name: text("name").unwrap_or_default(),
            image: text("image"),
            config: text("config").unwrap_or_default(),
            restart: number("restart").unwrap_or_default(),
            reset: number("reset").unwrap_or_default(),
            power_off: number("powerOff").unwrap_or_default(),
            seed: text("seed"),
            reprovision: number("reprovision").unwrap_or_default(),
            stopping: number("stopping"),
            started: text("started"),
            started_at: number("startedAt"),
            halted: match text("halted").as_deref() {
                Some("guest") => Some(Halt::Guest),
                Some("panic") => Some(Halt::Panic),
                Some(_) => Some(Halt::Crash),
                None => None,
            },
            crashes: number("crashes").and_then(|count| u32::try_from(count).ok()).unwrap_or_default(),
            crashed_at: number("crashedAt"),
            disks: text("disks").unwrap_or_default().split_whitespace().map(str::to_owned).collect(),
            settling: text("settling").map(|snapshots| Settling {
                apply: text("apply"),
                snapshots: snapshots.split_whitespace().map(str::to_owned).collect(),
            }),
            restoring: text("restoring"),
            restored: text("restored"),
            freeze: match text("freeze").as_deref() {
                Some("begun") => Some(Freeze::Begun),
                Some("done") => Some(Freeze::Done),
                Some(_) => Some(Freeze::Failed),
                None => None,
            },
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_what_it_writes() {
        let full = Metadata {
            uid: "u".into(),
            namespace: "n".into(),
            name: "a<&\"'>".into(),
            image: Some("tiny".into()),
            config: "c0ffee".into(),
            restart: 3,
            reset: 2,
            power_off: 1,
            seed: Some("5eed".into()),
            reprovision: 5,
            stopping: Some(0),
            started: Some("boot".into()),
            started_at: Some(17),
            halted: Some(Halt::Panic),
            crashes: 4,
            crashed_at: Some(18),
            disks: vec!["data".into(), "more".into()],
            settling: Some(Settling { apply: Some("s2".into()), snapshots: vec!["s1".into(), "s2".into()] }),
            restoring: Some("r2".into()),
            restored: Some("r1".into()),
            freeze: Some(Freeze::Done),
        };
        let empty = Metadata { uid: "u".into(), ..Metadata::default() };
        let settling = Metadata { settling: Some(Settling::default()), ..empty.clone() };
        let begun = Metadata { freeze: Some(Freeze::Begun), ..empty.clone() };
        let failed = Metadata { freeze: Some(Freeze::Failed), ..empty.clone() };
        for metadata in [full, empty, settling, begun, failed] {
            assert_eq!(Metadata::parse(&metadata.to_bare_element().render()).as_ref(), Some(&metadata));
            assert_eq!(Metadata::parse(&metadata.to_element().render()), Some(metadata));
        }
    }

    #[test]
    fn reads_what_libvirt_gives_back() {
        let xml = "<vm xmlns=\"https://kvmoor.dev/libvirt/v1\" uid='x' restart='2'/>\n";
        let metadata = Metadata::parse(xml).unwrap();
        assert_eq!((metadata.uid.as_str(), metadata.restart), ("x", 2));
        for not_ours in ["<vm/>", "", "text", "<"] {
            assert_eq!(Metadata::parse(not_ours), None, "{not_ours}");
        }
    }
}
