/// What a launcher tells each process that it starts: which one it is, of how many, and where they
/// meet.
public struct Launch: Sendable, Hashable {
    /// This process's number, `0..<size`.
    public var rank: Int
    /// How many processes there are.
    public var size: Int
    /// This process's number among those on the same machine.
    public var localRank: Int
    /// Host name or address of the machine with the store where the processes meet.
    public var address: String
    /// The store's TCP port.
    public var port: Int
    /// Whether the launcher runs the store; otherwise process 0 does.
    public var storeIsHosted: Bool
    /// The network interface to use, such as `eth0`; `nil` for the one that this host's name
    /// resolves to.
    public var interface: String?

    /// Describes a launch by hand.
    public init(
        rank: Int, size: Int, localRank: Int, address: String = "127.0.0.1", port: Int,
        storeIsHosted: Bool = false, interface: String? = nil
    ) {
        self.rank = rank
        self.size = size
        self.localRank = localRank
        self.address = address
        self.port = port
        self.storeIsHosted = storeIsHosted
        self.interface = interface
    }

    /// Reads the variables of torchrun, Open MPI's or MPICH's mpirun, or a Slurm step, the first of
    /// these that is there. `MASTER_ADDR`, `MASTER_PORT` and `GLOO_SOCKET_IFNAME` count with all.
    ///
    /// - Returns: `nil` when no launcher started this process, or started it alone.
    public init?(environment: [String: String]) throws(LaunchError) {
        let variables = Variables(environment)
        guard let launcher = Launcher.all.first(where: { $0.isThere(variables) }) else {
            return nil
        }
        let size = try variables.number(launcher.size, in: 1...Int(Int32.max))
        let bound = "0...\(size - 1), for \(launcher.size) is \(size)"
        let rank = try variables.number(launcher.rank, in: 0...size - 1, needed: bound)
        let local = launcher.localRank.first { variables[$0] != nil } ?? launcher.localRank[0]
        let localRank = try variables.number(local, in: 0...size - 1, needed: bound)
        guard size > 1 else { return nil }
        self.init(
            rank: rank, size: size, localRank: localRank,
            address: try launcher.address(variables, size), port: try launcher.port(variables),
            storeIsHosted: launcher.kind == .torchrun
                && variables["TORCHELASTIC_USE_AGENT_STORE"] == "True",
            interface: variables["GLOO_SOCKET_IFNAME"])
    }

    /// The CUDA device of this process where `count` are visible: that of its local rank, or the
    /// only one, since a launcher may show each process its own.
    func deviceIndex(of count: Int) throws(LaunchError) -> Int {
        guard count > 1 else { return 0 }
        guard localRank < count else {
            throw .tooFewDevices(localRank: localRank, count: count)
        }
        return localRank
    }
}

/// What is wrong with a launcher's variables.
public enum LaunchError: Error, Hashable, CustomStringConvertible {
    /// A variable is not set, or empty.
    case missing(variable: String, needed: String)
    /// A variable's value cannot be right.
    case invalid(variable: String, found: String, needed: String)
    /// More processes run on this machine than it has CUDA devices.
    case tooFewDevices(localRank: Int, count: Int)

    /// What was found and what is needed.
    public var description: String {
        switch self {
        case .missing(let variable, let needed):
            """
            the variable \(variable) is not set, and the launcher's others are; it must be \(needed). \
            Start the processes with torchrun, mpirun or srun, or unset the others to run one alone.
            """
        case .invalid(let variable, let found, let needed):
            "the variable \(variable) is \"\(found)\"; it must be \(needed)"
        case .tooFewDevices(let localRank, let count):
            """
            process \(localRank) of this machine needs a CUDA device of its own, \(count) are visible; \
            start at most \(count) processes per machine
            """
        }
    }
}

/// A process's variables; empty ones count as absent.
private struct Variables {
    private let environment: [String: String]

    init(_ environment: [String: String]) {
        self.environment = environment
    }

    subscript(name: String) -> String? {
        environment[name].flatMap { $0.isEmpty ? nil : $0 }
    }

    func number(
        _ name: String, in range: ClosedRange<Int>, needed: String? = nil
    ) throws(LaunchError) -> Int {
        let needed = "a number in \(needed ?? "\(range.lowerBound)...\(range.upperBound)")"
        guard let text = self[name] else { throw .missing(variable: name, needed: needed) }
        guard let value = Int(text), range.contains(value) else {
            throw .invalid(variable: name, found: text, needed: needed)
        }
        return value
    }
}

/// How one launcher names what it tells.
private struct Launcher: Sendable {
    enum Kind {
        case torchrun, mpi, slurm
    }

    let kind: Kind
    let rank: String
    let size: String
    /// The first that is set counts.
    let localRank: [String]
    /// Says how many processes run on this machine.
    var localSize: String?

    /// mpirun inside of a Slurm job sets both its own and Slurm's, which then describe its daemons.
    static let all = [
        Launcher(kind: .torchrun, rank: "RANK", size: "WORLD_SIZE", localRank: ["LOCAL_RANK"]),
        Launcher(
            kind: .mpi, rank: "OMPI_COMM_WORLD_RANK", size: "OMPI_COMM_WORLD_SIZE",
            localRank: ["OMPI_COMM_WORLD_LOCAL_RANK"], localSize: "OMPI_COMM_WORLD_LOCAL_SIZE"),
        // srun --mpi=pmi2 sets the first two only.
        Launcher(
            kind: .mpi, rank: "PMI_RANK", size: "PMI_SIZE",
            localRank: ["MPI_LOCALRANKID", "SLURM_LOCALID"], localSize: "MPI_LOCALNRANKS"),
        Launcher(
            kind: .slurm, rank: "SLURM_PROCID", size: "SLURM_NTASKS", localRank: ["SLURM_LOCALID"]),
    ]

    func isThere(_ variables: Variables) -> Bool {
        // A batch script has Slurm's variables of a whole job, but is one process; steps have a number.
        if kind == .slurm { return variables["SLURM_STEP_ID"] != nil }
        return variables[rank] != nil || variables[size] != nil
    }

    func address(_ variables: Variables, _ size: Int) throws(LaunchError) -> String {
        if let name = variables["MASTER_ADDR"] { return name }
        if let localSize, variables[localSize] == "\(size)" { return "127.0.0.1" }
        // Process 0 runs on the first node of its step.
        for name in ["SLURM_STEP_NODELIST", "SLURM_JOB_NODELIST"] where kind != .torchrun {
            guard let list = variables[name] else { continue }
            guard let host = Self.firstHost(list) else {
                throw .invalid(
                    variable: name, found: list, needed: "a list of hosts such as node[01-04],big7")
            }
            return host
        }
        throw .missing(
            variable: "MASTER_ADDR", needed: "the name or address of the machine of process 0")
    }

    func port(_ variables: Variables) throws(LaunchError) -> Int {
        if kind == .torchrun || variables["MASTER_PORT"] != nil {
            return try variables.number("MASTER_PORT", in: 1...65535)
        }
        // Jobs that share a machine meet at ports of their own.
        guard variables["SLURM_JOB_ID"] != nil else { return 29500 }
        return try 29500 + variables.number("SLURM_JOB_ID", in: 0...Int.max) % 10000
    }

    /// The first of Slurm's hosts: `node01` of `node[01-04,09],big7`.
    private static func firstHost(_ list: String) -> String? {
        var host = ""
        var rest = list[...]
        while let next = rest.first, next != "," {
            rest.removeFirst()
            guard next == "[" else {
                host.append(next)
                continue
            }
            guard let end = rest.firstIndex(of: "]") else { return nil }
            let first = rest[..<end].prefix { $0 != "-" && $0 != "," }
            guard !first.isEmpty else { return nil }
            host += first
            rest = rest[end...].dropFirst()
        }
        return host.isEmpty || host.contains("]") ? nil : host
    }
}
