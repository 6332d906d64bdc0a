"""Wording that fits two intents. Which one is meant is a coin toss that no model can call.

They are what a student must learn to be unsure of.
"""

from __future__ import annotations

from distill.demo.grammar import Ambiguity, phrases

AMBIGUITIES = (
    Ambiguity(
        "late_delivery",
        "order_status",
        phrases("""
            Still no sign of [the|my] {item}, {order}.
            Nothing [has come|came] [yet|so far], what about {order}?
            [My|The] {item} is not here [yet|].
            {order}, {item}, I am [still|] waiting [for it|].
            So where is it? [Order|My order] {order} [from {date}|].
            I ordered on {date} and have [seen|received] nothing.
            Can you look at {order}? It [is taking a while|takes long].
            No {item} so far [this week|on {day}|], [any idea why|what now]?
        """),
    ),
    Ambiguity(
        "damaged_item",
        "refund_request",
        phrases("""
            The {item} is [useless|no good|junk], sort this out.
            The {machine} never worked [for me|] and I want this sorted.
            I am [very|] unhappy with the {item} [from {order}|].
            The {item} is going back [to you|], it's [bad|poor] quality.
            What do I do with this {item}? I can't use it [like this|].
            [Really|Very] bad {item}, {amount} for this?
            The {item} is not okay and I am not keeping it.
        """),
    ),
    Ambiguity(
        "double_charge",
        "payment_failed",
        phrases("""
            Something [is wrong|went wrong] with the [charge|payment] for {order}.
            [My|The] payment of {amount} [does not look right|is a mess|looks wrong].
            The payment for the {item} went wrong, [please check|have a look].
            I paid {order} and then had to pay again.
            I tried to pay {amount} [twice|two times] for the {item}.
            What happened with my card [ending in|] {card} and the {amount}?
            The {item} payment has a problem, I see [it on my card|strange entries], {order}.
        """),
    ),
    Ambiguity(
        "refund_request",
        "cancel_order",
        phrases("""
            I don't want the {item} [any more|after all], {order}.
            [I|We] don't need the {item} [from {order}|] any longer.
            Please undo {order} [for me|].
            I'd like to [give back|get rid of] {order}, the {item}.
            Take back the {item}, [please|I changed my mind].
            {order}: I changed my mind, what now?
            I want out of {order}, the {item} for {amount}.
        """),
    ),
    Ambiguity(
        "login_problem",
        "suspected_fraud",
        phrases("""
            My account is acting strange [since {date}|on my {device}].
            My password [suddenly|] does not work [any more|] and I did not change it.
            There is something wrong with my [account|login|profile] since {date}.
            I got a code I did not expect and now I can't [get in|enter].
            My account shows another [name|email] [since {date}|on my {device}].
            I was logged out on my {device} and it does not [feel|look] right.
        """),
    ),
    Ambiguity(
        "late_delivery",
        "double_charge",
        phrases("""
            My parcel and the charge are both wrong, {order}.
            {order}: no {item}, but {amount} taken once more.
            I paid twice as much as planned and the {item} is not here either.
            Wrong charge, late {item}, [please fix|what a mess], {order}.
            Neither the {item} nor the [bill|{amount}] for {order} is as it should be.
            {item} overdue, card charged [again|too often]. [What now|Explain please]?
        """),
    ),
    Ambiguity(
        "close_account",
        "cancel_order",
        phrases("""
            Please cancel everything [I have with you|, thank you|].
            I want to stop [all of|] it, the {item} and the rest.
            Cancel [it all|all of it] please, I'm not interested in the {item}.
            I [wish|would like] to cancel, please [confirm|confirm it] by {day}.
            I want to quit, {order} [as well|and all].
            [How do I cancel with you|How can I cancel]? I signed up on {date}.
        """),
    ),
    Ambiguity(
        "product_question",
        "damaged_item",
        phrases("""
            The {machine} does [strange things|odd things] with my {device}.
            Is it normal that the {machine} [gets hot|makes noise|smells|blinks red]?
            My {machine} [won't|does not] connect to my {device}.
            How do I get the {machine} to [work|run]?
            Should the {item} look like this [on one side|at the back|]?
            The {machine} is louder than I thought, is that [right|meant to be]?
        """),
    ),
    Ambiguity(
        "change_address",
        "late_delivery",
        phrases("""
            I think the {item} is going to the wrong place, {order}.
            {carrier} has the wrong [address|door] for {order}.
            Why is my {item} in {city}? I don't live there [any more|].
            The {item} went to [my old place|somebody else|the neighbours] and not to {street}.
            {order} is not coming to {street} [, is it|as it should].
            Wrong place, wrong day: {order} should be at {street}.
        """),
    ),
    Ambiguity(
        "payment_failed",
        "login_problem",
        phrases("""
            The app [won't let me|does not let me] do anything, [error|code] {code}.
            I can't get through [on my {device}|], it says {code}.
            Your site doesn't accept my [details|data], {code}.
            I enter the code and it [hangs|stops] [on my {device}|with {code}].
            My wallet does not work [since {date}|on my {device}|].
            It always says "{code}" when I try [on my {device}|].
        """),
    ),
    Ambiguity(
        "invoice_copy",
        "double_charge",
        phrases("""
            Your bill for {order} does not match [my statement|what I paid].
            The bill says {amount}, my card says [something else|more].
            I have two bills for {order}, [why|how come]?
            The amount on the paper for the {item} is [not right|too high].
            I need to understand the {amount} [for {order}|of {date}].
            My {amount} and your invoice [for the {item}|] are not the same.
        """),
    ),
    Ambiguity(
        "refund_request",
        "legal_threat",
        phrases("""
            Settle {order} by {date} or I [take this further|take steps].
            Last chance to pay back {order}, I know my rights.
            I know my rights, [pay back|return] the {amount} [for the {item}|].
            {amount}, by {date}, or you'll [see|regret it].
            You owe me {amount} and I won't let [this|it] go.
            My patience [with {order}|] is over, the {amount} or [consequences|else].
        """),
    ),
    Ambiguity(
        "order_status",
        "product_question",
        phrases("""
            Is the {item} coming [soon|this month|back]?
            When can I [have|get] the {item} in {city}?
            How long [does|will] the {item} take to {city}?
            [Do you have|Have you got] the {item} for me [yet|]?
            What about the {item} you announced for {date}?
            Will the {item} fit in my mailbox [in {city}|on {day}|]?
        """),
    ),
)
