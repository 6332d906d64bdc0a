"""Messages that are no business of the shop's support: jobs, press, spam, verse, small talk.

Their gold label is `other`. Some use the shop's own words: words alone do not give them away.
"""

# ruff: noqa: E501  a phrase is one line

from __future__ import annotations

from distill.demo.grammar import Intent, phrases

OTHER = Intent(
    label="other",
    weight=0,  # drawn by its kind, never beside the others
    urgency="low",
    frames=phrases("""
        I would like to apply for the job as a [driver|tester|developer|night guard] in {city}.
        Do you have open positions in your [refund|fraud|legal|support] team? I live in {city}.
        Attached is my CV, I have {days} years of experience in [sales|law|data entry|logistics].
        I am looking for a summer internship in {city}, [any department|maybe in marketing].
        I am a journalist writing about online fraud, could I interview your [CEO|press office] on {day}?
        Our magazine in {city} is planning a story about [late parcels|online shops], who handles press?
        My students do a survey on [delivery|payment] apps, would you [answer|fill in] {days} questions?
        Boost your ranking! {days}00 backlinks for {amount}, offer ends tonight, reply now.
        Dear owner, we buy {item} stock in bulk, our factory in {city} offers [best|lowest] price.
        Congratulations, you won a {item}! [Act now|Hurry], only {days} winners left.
        We offer cheap warehouse space in {city} from {date}, call {name}.
        What's the weather [going to be like|like] in {city} on {day}?
        Do you think it will rain in {city} on {date}? I want to [hang out the laundry|go fishing].
        Roses are red, my {item} is blue, it's {day} in {city} and I'm thinking of you.
        O {item}, o {item}, so shiny and new, the moon over {city} is jealous of you.
        Write me a short poem about a [lonely|happy|brave] {item} [in {city}|and a cat].
        Tell me a joke about a {item} [and a lawyer|and a banker|and a penguin].
        Are you a [robot|real person]? I am [bored|lonely] here in {city} on a {day}.
        Who will win the match on {day}, {city} or the others? [I say three nil|My bet is on {city}].
        What is {days} times {card}? My homework is due and my [phone|brother] can't do it.
        Can you help me with an essay on the history of the {item}?
        lol wrong window, I meant to text {name} about [dinner|football|the {item}] on {day}.
        Mum, it's me, can you bring the {item} when you come to {city} on {day}?
        Bonjour, est-ce que vous parlez [francais|anglais]? Je cherche un {item} pour {city}.
        Guten Tag, ich suche [jemanden|einen Freund] in {city}, der [morgen|am Sonntag] Zeit hat.
        Hola, me llamo {name} y busco trabajo en {city} [desde hoy|en una tienda].
        Buongiorno, a che ora apre il museo di {city}? [Grazie mille|Vorrei andare domani].
        We collect for the animal shelter in {city}, would you [donate|give] a {item} for the raffle?
        Our school in {city} has a fair on {date}, would you sponsor [a prize|a {item}]?
        How do I cook rice for {days} people without a {item}?
        What do you think of the new mayor of {city}? [Nobody likes the man|I voted on {date}].
        My horoscope says I will find [love|a {item}] on {day} in {city}, do you believe in that?
        test test {code} {card}, is this thing on?
        asdf {code} {device} qwer {card} [blah|foo|zzz]
        Happy new year to all of you from {name} in {city}!
        I had a dream about a {item} that could [sing|fly|talk], it was {day} and {city} was under water.
    """),
    details=phrases("""
        [I hope you are well|I hope this finds you well].
        You can reach me on {day}.
        I could start on {date}.
        My neighbour in {city} gave me your address.
        Please pass this on to the right person.
        I know this is not really what you do.
        I have a degree from {city}.
        The {item} has nothing to do with it.
        This is not about an order.
    """),
)
