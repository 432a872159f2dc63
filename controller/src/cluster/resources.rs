//! Amounts of what virtual machines use, and their sums.

/// What one virtual machine, or many together, use.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Resources {
    /// Virtual CPUs.
    pub cpu: u64,
    /// Memory, in bytes.
    pub memory: u64,
    /// Sizes of all disks, in bytes.
    pub disk: u64,
}

impl Resources {
    /// The sum.
    pub fn plus(self, other: Self) -> Self {
        Self {
            cpu: self.cpu.saturating_add(other.cpu),
            memory: self.memory.saturating_add(other.memory),
            disk: self.disk.saturating_add(other.disk),
        }
    }

    /// What is left of it without `other`.
    pub fn minus(self, other: Self) -> Self {
        Self {
            cpu: self.cpu.saturating_sub(other.cpu),
            memory: self.memory.saturating_sub(other.memory),
            disk: self.disk.saturating_sub(other.disk),
        }
    }

    /// Of each the larger amount: what may be in use while it is not known which of two writes holds.
    pub fn at_most(self, other: Self) -> Self {
        Self { cpu: self.cpu.max(other.cpu), memory: self.memory.max(other.memory), disk: self.disk.max(other.disk) }
    }
}

/// What the virtual machines of one namespace add up to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Usage {
    /// Number of admitted virtual machines.
    pub vms: u64,
    /// What they were admitted with.
    pub resources: Resources,
}

impl Usage {
    /// One more virtual machine, or none where nothing was admitted.
    pub fn add(&mut self, charge: Option<Resources>) {
        if let Some(charge) = charge {
            self.vms = self.vms.saturating_add(1);
            self.resources = self.resources.plus(charge);
        }
    }

    /// One virtual machine less.
    pub fn remove(&mut self, charge: Option<Resources>) {
        if let Some(charge) = charge {
            self.vms = self.vms.saturating_sub(1);
            self.resources = self.resources.minus(charge);
        }
    }
}
