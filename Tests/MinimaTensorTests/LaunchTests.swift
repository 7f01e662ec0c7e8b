import MinimaTensor
import Testing

@Suite("Launchers' variables")
struct LaunchTests {
    static let torchrun = [
        "RANK": "3", "WORLD_SIZE": "8", "LOCAL_RANK": "1", "MASTER_ADDR": "big1",
        "MASTER_PORT": "12345",
    ]
    static let openMPI = [
        "OMPI_COMM_WORLD_RANK": "1", "OMPI_COMM_WORLD_SIZE": "2", "OMPI_COMM_WORLD_LOCAL_RANK": "1",
        "OMPI_COMM_WORLD_LOCAL_SIZE": "2",
    ]
    static let mpich = [
        "PMI_RANK": "2", "PMI_SIZE": "4", "MPI_LOCALRANKID": "2", "MPI_LOCALNRANKS": "4",
    ]
    static let slurm = [
        "SLURM_PROCID": "5", "SLURM_NTASKS": "16", "SLURM_LOCALID": "1", "SLURM_STEP_ID": "0",
        "SLURM_JOB_ID": "1234567", "SLURM_JOB_NODELIST": "gpu[007-010,12],big1",
    ]

    static func adding(_ more: [String: String], to variables: [String: String])
        -> [String: String]
    {
        variables.merging(more) { $1 }
    }

    @Test func noLauncherMeansNoGroup() throws {
        #expect(try Launch(environment: [:]) == nil)
        #expect(try Launch(environment: ["PATH": "/bin", "RANK": "", "MASTER_PORT": "1"]) == nil)
        #expect(
            try Launch(environment: ["RANK": "0", "WORLD_SIZE": "1", "LOCAL_RANK": "0"]) == nil)
        // The shell of a batch script, which has the job's numbers and is one process.
        var batch = Self.slurm
        batch["SLURM_STEP_ID"] = nil
        #expect(try Launch(environment: batch) == nil)
    }

    @Test func torchrunSaysEverything() throws {
        let launch = Launch(rank: 3, size: 8, localRank: 1, address: "big1", port: 12345)
        #expect(try Launch(environment: Self.torchrun) == launch)
        var hosted = launch
        hosted.storeIsHosted = true
        hosted.interface = "eth1"
        let more = ["TORCHELASTIC_USE_AGENT_STORE": "True", "GLOO_SOCKET_IFNAME": "eth1"]
        #expect(try Launch(environment: Self.adding(more, to: Self.torchrun)) == hosted)
    }

    @Test func mpirunOnOneMachineNeedsNoAddress() throws {
        #expect(
            try Launch(environment: Self.openMPI)
                == Launch(rank: 1, size: 2, localRank: 1, port: 29500))
        #expect(
            try Launch(environment: Self.mpich)
                == Launch(rank: 2, size: 4, localRank: 2, port: 29500))
        let elsewhere = ["MASTER_ADDR": "10.0.0.1", "MASTER_PORT": "4000"]
        #expect(
            try Launch(environment: Self.adding(elsewhere, to: Self.mpich))
                == Launch(rank: 2, size: 4, localRank: 2, address: "10.0.0.1", port: 4000))
    }

    @Test func mpirunOnSeveralMachinesNeedsAnAddress() throws {
        let spread = Self.adding(["OMPI_COMM_WORLD_LOCAL_SIZE": "1"], to: Self.openMPI)
        #expect(
            throws: LaunchError.missing(
                variable: "MASTER_ADDR",
                needed: "the name or address of the machine of process 0")
        ) { try Launch(environment: spread) }
        // In a Slurm job the nodes are known, and its other variables describe mpirun's daemons.
        let inJob = Self.adding(spread, to: Self.slurm)
        #expect(
            try Launch(environment: inJob)
                == Launch(rank: 1, size: 2, localRank: 1, address: "gpu007", port: 34067))
    }

    @Test func slurmMeetsAtTheFirstNode() throws {
        let launch = Launch(rank: 5, size: 16, localRank: 1, address: "gpu007", port: 34067)
        #expect(try Launch(environment: Self.slurm) == launch)
        // srun --mpi=pmi2
        var pmi = Self.adding(["PMI_RANK": "5", "PMI_SIZE": "16"], to: Self.slurm)
        #expect(try Launch(environment: pmi) == launch)
        // A step on some of the job's nodes.
        pmi["SLURM_STEP_NODELIST"] = "big1"
        #expect(try Launch(environment: pmi)?.address == "big1")
    }

    @Test(arguments: [
        ("node1", "node1"), ("node1,node2", "node1"), ("n[3,5-7]", "n3"),
        ("a[1-2]b[04-09]c", "a1b04c"),
        ("login-2", "login-2"),
    ]) func firstHost(list: String, host: String) throws {
        let variables = Self.adding(["SLURM_JOB_NODELIST": list], to: Self.slurm)
        #expect(try Launch(environment: variables)?.address == host)
    }

    @Test(arguments: ["node[01-04", "node[]", "[", ",node1", "node]1"])
    func malformedNodeList(list: String) {
        let variables = Self.adding(["SLURM_JOB_NODELIST": list], to: Self.slurm)
        let error = #expect(throws: LaunchError.self) { try Launch(environment: variables) }
        #expect(error.map { "\($0)".contains("SLURM_JOB_NODELIST is \"\(list)\"") } ?? false)
    }

    @Test(arguments: [torchrun, openMPI, mpich, slurm])
    func everyNumberIsChecked(variables: [String: String]) {
        let names =
            ["RANK", "WORLD_SIZE", "LOCAL_RANK", "PROCID", "NTASKS", "LOCALID"]
            + ["_SIZE", "LOCALRANKID", "MASTER_PORT", "SLURM_JOB_ID"]
        let numbers = variables.keys.filter { key in
            names.contains { key.hasSuffix($0) } && !key.hasSuffix("LOCAL_SIZE")
        }
        #expect(numbers.count >= 3)
        for name in numbers {
            for value in ["-1", "two", "1.5", " 1", "99999999999999999999"] {
                let wrong = Self.adding([name: value], to: variables)
                let error = #expect(throws: LaunchError.self, "\(name)=\(value)") {
                    try Launch(environment: wrong)
                }
                #expect(error.map { "\($0)".contains("\(name) is \"\(value)\"") } ?? false)
            }
        }
    }

    @Test func contradictionsNameTheVariable() {
        #expect(
            throws: LaunchError.invalid(
                variable: "RANK", found: "8", needed: "a number in 0...7, for WORLD_SIZE is 8")
        ) { try Launch(environment: Self.adding(["RANK": "8"], to: Self.torchrun)) }
        #expect(
            throws: LaunchError.invalid(
                variable: "MASTER_PORT", found: "65536", needed: "a number in 1...65535")
        ) { try Launch(environment: Self.adding(["MASTER_PORT": "65536"], to: Self.mpich)) }
        for name in Self.torchrun.keys {
            var variables = Self.torchrun
            variables[name] = nil
            let error = #expect(throws: LaunchError.self) { try Launch(environment: variables) }
            #expect(error.map { "\($0)".contains("\(name) is not set") } ?? false)
        }
    }
}
