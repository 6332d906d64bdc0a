"""What surrounds a request: greetings, old stories, hurry and patience, goodbyes.

None of it says what the customer wants. Old stories use the words of other intents on purpose:
a model that only counts words is led astray by them.
"""

# ruff: noqa: E501  a phrase is one line

from __future__ import annotations

from distill.demo.grammar import phrases

GREETINGS = (
    "Hi,", "Hello,", "Hi there,", "Hey,", "Good morning,", "Good evening,", "Dear support,",
    "Dear team,", "hi", "Hello there,", "Hiya,", "Dear Sir or Madam,", "To whom it may concern,",
    "Good afternoon,", "hey guys,", "Hi support team,", "Hello again,", "Hey there!",
)  # fmt: skip

CLOSINGS = (
    "Thanks.", "Thank you.", "Thanks in advance.", "Kind regards", "Best wishes", "Cheers",
    "Many thanks", "Please advise.", "Please let me know.", "Looking forward to hearing from you.",
    "Thank you for your help.", "Best regards", "Please help.", "Any help is appreciated.",
    "Hope you can help.", "Thanks for looking into it.", "Have a nice day.", "thx",
    "I hope to hear from you soon.", "Waiting for your reply.", "Regards", "Can somebody answer?",
)  # fmt: skip

STORIES = phrases("""
    I already got my refund for the {past}, [so this is about something else|now it's another thing].
    The {past} you refunded last month is not what I am writing about.
    Last time you sent me the {past} and it came on time, [so I was happy|all fine].
    My {past} came broken in spring and you replaced it [at once|without any fuss], [thanks|great].
    I had trouble logging in before, that is [solved|fixed] now.
    I reset my password [this morning|yesterday] like you said and it worked.
    You once charged me twice for a {past}, that was corrected [back then|long ago].
    I am not writing about the late {past}, that one [has come|arrived] [meanwhile|in the end].
    My address is up to date, I checked [it|that] [first|before writing].
    I cancelled the {past} [last week|on {day}] and that went through fine.
    The invoice for the {past} came, thank you [for that|very much].
    No, I don't want a refund [for the {past}|and I never asked for one].
    I thought it was fraud at first, but [it was my wife's order|that was only my son].
    I don't want to close my account [or anything|, I like your shop].
    I'm not going to [threaten you with|call] a lawyer [over this|about it].
    My card works fine [everywhere else|in other shops], I tried it [today|yesterday].
    I read your [help page|FAQ] about [returns|delivery times|payments] but it [says nothing|did not help].
    Your chat bot asked me if my parcel was late. It is not [about that|that].
    I have been a customer [for {days} years|since the shop opened] and never had [a damaged item|to complain].
    I called [yesterday|on {day}] and was told to write [here|to you] instead.
    A colleague of yours, {name}, told me to [write in|send a message].
    The bot sent me a link to track my order, which is not [what I asked|the point].
    I know you are busy [with the sale|before the holidays].
    Someone on the phone wanted to change my address, I said no [thanks|need].
    Don't worry, this is not another "where is my order" mail.
    After the trouble with the double charge in spring I hoped for [peace|a quiet year].
    I saw in the news that people got phishing mails in your name, [mine was real|not me luckily].
    My neighbour is still waiting for his refund, [I am luckier|but that's his story].
    I'd have cancelled [long ago|anywhere else], but I like your {past}.
    The last invoice was right, the last parcel on time, [so far so good|well done].
    My cousin, who is a lawyer, said I should simply ask you [nicely|first].
    I know the payment page was down on {date}, [that is over|it works again].
""")

HURRY = phrases("""
    +high I need this [sorted|solved|fixed] [today|right now|immediately|within the hour].
    +high [Please|Pls] [hurry|act now|do it now], [I have no time left|there is no time to lose].
    +high [This is|It is] [really |very |extremely |]urgent.
    +high ASAP[ please.| pls.|!!|, thank you.]
    +high [I am|I'm] [travelling|flying|leaving] [tomorrow|tonight|in a few hours] [and need this before I go|so hurry please].
    +high I don't want to rush you, but I [fly|leave] tomorrow [morning|at six].
    +high [The deadline is|My deadline is] [today|tonight|tomorrow at noon].
    +high This cannot wait [until next week|any longer|until Monday].
    +high Answer me [today|now|within the hour], [please|or I call again|I mean it].
    +high I know you say no rush, but for me it is [an emergency|urgent].
    +high Normally I'd say take your time, [but|only] I leave [tonight|in two hours].
    +high [Emergency!|Urgent!|URGENT.|Time critical!]
    +high Please treat this as [top priority|an emergency|critical].
    +high I have been told twice it can wait. It [can't|cannot], [today please|not one more day].
""")

HURRY_THINGS = phrases("""
    +high It is my [daughter|son|mother]'s birthday [tomorrow|this weekend], so [every hour counts|please be quick].
    +high [We|I] have a wedding [tomorrow|on Saturday] and [I am panicking|no time].
    +high My boss needs it [by noon|before five today|within two hours].
    +high The holiday starts tomorrow and the car is packed [already|].
    +high My guests arrive tonight and I [have nothing|look silly].
""")

HURRY_MONEY = phrases("""
    +high My rent is due tomorrow and [that money is missing|I need that money].
    +high I can't [pay for food|buy groceries|fill the car] until this is [fixed|solved].
    +high That is all the money I have, [please be quick|I am shaking].
    +high My account will be overdrawn [tonight|by midnight|tomorrow] if nothing happens.
    +high The bank closes at four [today|] and I need an answer before.
    +high Every minute counts with this, [it is my savings|all my money is in there].
""")

PATIENCE = phrases("""
    +low No [rush|hurry] [at all|from my side|, really|].
    +low [It is|It's|This is] not urgent [at all|in any way|].
    +low Whenever you [have a minute|find the time|get round to it] is [fine|good enough].
    +low Take your time [with this|].
    +low There is [no hurry|plenty of time], [I'm away until next month|next week is fine too].
    +low [This|It] can wait [until next week|a while|till after the holidays].
    +low Just [curious|asking|wondering], [nothing urgent|no pressure].
    +low An answer [next week|some time this month] is [soon enough|fine].
    +low Low priority [from my side|, I guess|], [don't worry|only so you know].
    +low It sounds like an emergency but it [isn't|is not], [relax|any day will do].
    +low I'm in no [hurry|rush] [with it|here|].
    +low [I can wait|Waiting is fine], [you surely have more urgent cases|others need you more].
    +low Please don't [drop everything|stay late] for [this|me], [next week is okay|any day is fine].
    +low Not an emergency, [just for my files|only when you have time].
    +low [No stress|No pressure], [answer when you can|whenever it suits you].
    +low When things calm down [there|at your end] is early enough[ for me|].
""")

THREATS = phrases("""
    +legal Otherwise my lawyer will [write to you|be in touch].
    +legal If not, I will [take you to|see you in] [small claims court|court].
    +legal Or I [file a complaint with|go to] the [regulator|ombudsman|consumer authority].
    +legal If nothing happens I start a chargeback [with my bank|] and [report you|go to the ombudsman].
    +legal [My solicitor|My lawyer] already has [a copy of this|all our mails].
    +legal Next stop is [the court|a lawyer|the consumer protection office].
    +legal I [also|] consider this a breach of GDPR and will [complain to|inform] the data protection authority.
""")

# The main request comes first, the aside follows.
ALSO = (
    "Also, {aside}", "And one more thing: {aside}", "While I am at it, {aside}", "PS: {aside}",
    "Oh, and {aside}", "Second question: {aside}", "By the way, {aside}", "Besides, {aside}",
)  # fmt: skip

# The aside comes first, the main request is named as such.
RATHER = (
    "{aside} But the real problem is this.",
    "{aside} That is only by the way though, here is my main problem.",
    "{aside} But what really matters is this.",
    "{aside} Forget that for now, though. The main thing:",
    "{aside} That's minor. The real reason I write:",
    "{aside} But first and foremost:",
)
