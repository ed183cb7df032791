"""What the report says, in the languages of the READMEs. No figure stands here."""

OURS = {
    "R1": {"zh": "任意时刻、保存当中 kill -9", "en": "kill -9 at any time and inside saves"},
    "R2": {"zh": "保存的每个文件操作处被杀", "en": "killed at each file operation of a save"},
    "R3": {
        "zh": "kill -9 之后换 1、2 或 4 个进程继续",
        "en": "kill -9, then on with 1, 2 or 4 processes",
    },
    "R4": {
        "zh": "SIGTERM、SIGINT、SIGHUP，保存当中，连发两次",
        "en": "SIGTERM, SIGINT, SIGHUP, inside saves, and twice",
    },
    "R5": {"zh": "磁盘写满", "en": "disk full"},
    "R6": {
        "zh": "检查点的文件被截断、清零、删除、换旧、翻转一位",
        "en": "files of a checkpoint cut, zeroed, deleted, swapped for older ones, a bit flipped",
    },
    "R7": {"zh": "检查点全部损坏", "en": "every checkpoint damaged"},
    "R8": {
        "zh": "几个进程之一被杀或被停住",
        "en": "one of several processes killed or stopped",
    },
    "R9": {"zh": "启动器被 kill -9", "en": "launcher killed with kill -9"},
    "R10": {"zh": "同一文件夹里启动两次", "en": "two trainings in one folder"},
    "R11": {"zh": "损失或梯度不是有限数", "en": "loss or gradients not finite"},
    "R12": {"zh": "损失突增", "en": "loss spike"},
    "R13": {"zh": "内存不足", "en": "out of memory"},
    "R14": {
        "zh": "读数据的线程死掉、出错、挂起",
        "en": "thread that loads data dies, fails, hangs",
    },
    "R15": {
        "zh": "数据、分词器或设置被改动",
        "en": "data, tokenizer or settings changed",
    },
    "R16": {
        "zh": "时钟倒退、跳前，文件时间打乱",
        "en": "clock set back or ahead, file times shuffled",
    },
    "R17": {
        "zh": "文件夹只读、消失、名字古怪",
        "en": "folders that are read-only, vanish, or have odd names",
    },
    "R18": {
        "zh": "R1、R3 里每个样本每轮恰好一次",
        "en": "every sample exactly once an epoch in R1 and R3",
    },
    "R19": {
        "zh": "学习率等于公式，与进程数、微批无关",
        "en": "learning rate is the formula's, for any processes and microbatches",
    },
    "R20": {
        "zh": "每次保存先同步文件，再同步文件夹，再改名",
        "en": "every save syncs its files, then its folder, then renames it",
    },
    "R21": {"zh": "微调被 kill -9", "en": "a fine-tuning killed with kill -9"},
    "R22": {
        "zh": "旧格式的检查点能读，更新的被拒绝",
        "en": "checkpoints of older formats load, newer ones are refused",
    },
    "R23": {
        "zh": "DeepSpeed ZeRO 被 kill -9，换进程数",
        "en": "DeepSpeed ZeRO killed, its number of processes changed",
    },
}

COMPARED = (
    (
        "kills",
        "R1",
        {"zh": "kill -9 之后能自己继续", "en": "goes on unaided after kill -9"},
    ),
    (
        "same_bits",
        "R1",
        {
            "zh": "被杀过的训练走到终点，权重逐位相同",
            "en": "killed runs that come to their end, with the same bits",
        },
    ),
    (
        "same_samples",
        "R18",
        {
            "zh": "被杀过的训练，样本不丢不重",
            "en": "killed runs with no sample lost or repeated",
        },
    ),
    (
        "flips",
        "R6",
        {
            "zh": "检查点里的损坏被发现（别人：只翻转一位）",
            "en": "damage to a checkpoint noticed (others: flipped bits only)",
        },
    ),
    (
        "disk",
        "R5",
        {
            "zh": "磁盘写满，腾出空间后能继续",
            "en": "disk full, goes on once there is space",
        },
    ),
    (
        "together",
        "R10",
        {
            "zh": "同一文件夹里的第二次训练被拒绝",
            "en": "second training in one folder refused",
        },
    ),
    (
        "launcher",
        "R9",
        {"zh": "启动器被杀，5 秒后没有遗孤", "en": "launcher killed, nothing left after 5 s"},
    ),
)

HEADS = {
    "zh": ["", "注入的故障", "经受住"],
    "en": ["", "injected fault", "survived"],
}
PEER_HEADS = {
    "accelerate, one folder": "accelerate {version} `save_state`",
    "accelerate, named": "accelerate {version} `automatic_checkpoint_naming`",
    "HF Trainer": "HF Trainer (transformers {version})",
    "Lightning": "Lightning {version}",
}
WORDS = {
    "zh": {
        "sum": "共注入 {faults:,} 次故障，没有经受住的 {failures} 次。",
        "samples": "R1、R3 里被杀过的 {runs} 次训练学了 {samples_applied:,} 个样本，"
        "丢失或重复 {samples_lost_or_repeated} 个。",
        "checked": "全部",
        "fault": "同类的故障",
        "gone": "{gone}/{workers} 个进程",
        "beside": "同一套工具、同样大小的模型，对别人的训练器（按各自文档推荐的用法）"
        "注入同类的故障：",
        "how": "每五次 kill 有两次瞄准保存；权重和它自己未被打断的训练比。正常停下再继续，"
        "HF Trainer 也逐位相同，accelerate（`skip_first_batches`）在一轮当中、Lightning（数据加载器"
        "没有状态，它自己会警告）不相同。",
    },
    "en": {
        "sum": "{faults:,} faults injected, {failures} not survived.",
        "samples": "The {runs} killed runs of R1 and R3 learnt from {samples_applied:,} samples; "
        "{samples_lost_or_repeated} were lost or repeated.",
        "checked": "all",
        "fault": "the same kinds of fault",
        "gone": "{gone}/{workers} processes",
        "beside": "The same harness with the same size of model, pointed at others' trainers, used "
        "as their documentation recommends:",
        "how": "Two of five kills are aimed at a save; weights are compared with an uninterrupted "
        "run of the same trainer. Stopped in order and resumed, HF Trainer has the same bits too; "
        "accelerate (`skip_first_batches`) in the middle of an epoch and Lightning (its loader has "
        "no state, as it warns itself) have not.",
    },
}
